"""A short seeded selection of the fault bench; `make faults N=200` runs all of it."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from confluent_kafka.admin import NewPartitions

from contract.kafka import admin
from headrace.audit import audit, differences
from publisher.store import read_status
from tests.faults.bench import PARTITIONS, Bench, disk, running
from tests.faults.fleet import HEADRACE
from tests.faults.run import inflict
from tests.faults.verdict import Verdict, judge

SEED = 7
RATE = 600
SECONDS = 18
HAND = ("at_streams.before_commit", "kill_trainer", "redis_killed", "kill_server")


@pytest.fixture(scope="module")
def stressed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Bench, list[str], Verdict]]:
    """A stack after its faults, still running, nothing lagging."""
    home: Path = tmp_path_factory.mktemp("faults")
    with disk(home / "files") as files, running(home, SEED, RATE, is_tmpfs=files.is_tmpfs) as bench:
        problems = inflict(bench, HAND, SECONDS)
        verdict = judge(bench)
        bench.prober.stop()
        yield bench, problems, verdict


@pytest.mark.timeout(240)
def test_nothing_is_lost_doubled_or_torn(stressed: tuple[Bench, list[str], Verdict]) -> None:
    """Every role recovers from kill -9, and all that is derived agrees with the raw logs; queries were answered.

    A slow answer is not held against the server here: the tests share two cores.
    """
    bench, problems, verdict = stressed
    assert not problems
    assert not bench.fleet.broken
    assert (verdict.lost, verdict.duplicated, verdict.torn, verdict.examples) == (0, 0, 0, [])
    assert verdict.events > RATE * SECONDS
    assert bench.fleet.kills.total() >= len(HAND)
    assert bench.prober.queries > 50
    assert not [cause for _, cause in bench.prober.failures if "status" in cause or "Error" in cause]


@pytest.mark.timeout(120)
def test_the_audit_sees_damage(stressed: tuple[Bench, list[str], Verdict]) -> None:
    """A row lost, a row changed, a key too many: each is one difference, and the audit has counted real things."""
    bench, *_ = stressed
    client = redis.Redis.from_url(bench.settings.redis.url.get_secret_value())
    served = read_status(client, bench.settings.names)["version"]  # older versions are kept, and audited only by key
    keys = sorted(client.scan_iter(f"{bench.settings.names.key('rows', served)}:*"))
    first, second = (next(iter(client.hgetall(key))) for key in keys[:2])
    client.hdel(keys[0], first)
    client.hset(keys[1], second, b"torn")
    client.set(bench.settings.names.key("rows", 99, "{1}"), b"")
    checks = {(check.part, check.what): check for check in audit(bench.settings)}
    rows, orphans = checks["publisher", "user rows"], checks["publisher", "keys"]
    assert (rows.missing, rows.different, rows.extra, orphans.extra) == (1, 1, 0, 1)
    assert differences(list(checks.values())) == 3
    empty = {at for at, check in checks.items() if not check.expected}
    assert empty <= {("publisher", "index codes")}, f"nothing was compared: {empty}"


@pytest.mark.timeout(120)
def test_a_raised_partition_count_is_refused(stressed: tuple[Bench, list[str], Verdict]) -> None:
    """Streams that finds more partitions than before does not start, and says why and what to do. Ends the stack."""
    bench, *_ = stressed
    for name in bench.fleet.names("streams"):
        bench.fleet.remove(name)
    names = bench.settings.names
    raised = [NewPartitions(names.topic(t), PARTITIONS * 2) for t in ("exposures", "clicks", "ranking-drops", "users")]
    client = admin(bench.settings.kafka)
    for done in client.create_partitions(raised).values():
        done.result(10)
    environment = bench.fleet.members["trainer"].environment
    found = subprocess.run(
        [*HEADRACE, "run", "streams"],
        env={**environment, "PATH": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert found.returncode == 2, found.stderr
    said = found.stderr.splitlines()[-1]
    assert "partitions" in said
    assert "namespace" in said
