"""After the faults: wait until nothing lags, then hold everything against the raw logs."""

import contextlib
import json
import time
import urllib.request
from typing import NamedTuple, cast

from confluent_kafka import TopicPartition

from contract import kafka
from contract.errors import HeadraceError, UnreachableError
from headrace import offsets
from headrace.audit import audit, differences
from headrace.audit_compare import Check
from streams.lag import total
from tests.faults.bench import PARTITIONS, Bench
from tests.faults.feeder import COMPACTED

CALM_S = 4.0
SETTLED_S = 180.0
POLL_S = 0.5
LOST_S = 30.0
RAW = ("exposures", "clicks", "ranking-drops", "items", "users")


class Verdict(NamedTuple):
    """What a run lost, doubled or tore; `examples` for people."""

    events: int
    lost: int
    duplicated: int
    torn: int
    settled_s: float
    examples: list[str]


def settle(bench: Bench) -> float:
    """Wait until every group has read everything for some seconds; gives the seconds it took until then."""
    begun = time.monotonic()
    calm_since = begun
    said = ""
    while True:
        now = time.monotonic()
        try:
            rows = offsets.lag(bench.settings)
            behind = total(rows)
            said = ", ".join(f"{r.group} {r.topic}-{r.partition} {r.lag}" for r in rows if r.lag)
        except HeadraceError as error:
            behind, said = 1, str(error)
        if behind:
            calm_since = time.monotonic()
        if now - calm_since >= CALM_S:
            return calm_since - begun
        if now - begun > SETTLED_S:
            bench.fleet.stacks()
            tails = "\n".join(f"--- {name}\n{bench.fleet.tail(name)}" for name in bench.fleet.names())
            raise TimeoutError(f"lag is not 0 after {SETTLED_S:.0f} s: {said}\n{tails}")
        time.sleep(POLL_S)


def judge(bench: Bench) -> Verdict:
    """Settle, audit, and compare what the broker acknowledged with what the raw topics hold."""
    settled_s = settle(bench)
    checks = [_raw(bench), *audit(bench.settings), _served(bench)]
    events = sum(bench.feeder.acknowledged.values())
    examples = [f"{c.part}/{c.what}: {text}" for c in checks if c.differences for text in c.examples]
    return Verdict(
        events,
        sum(c.missing for c in checks),
        sum(c.extra + c.duplicated for c in checks),
        sum(c.different for c in checks),
        settled_s,
        examples or [f"{c.part}/{c.what}: {c.differences}" for c in checks if differences([c])],
    )


def _raw(bench: Bench) -> Check:
    """Acknowledged records stand in the raw logs, each once: the idempotent producer and the broker's log.

    Of a compacted topic the newest record of each key must be there; older ones may.
    """
    check = Check("bench", "raw records")
    feeder = bench.feeder
    for topic in RAW:
        wanted, found = feeder.acknowledged[topic], _places(bench, topic)
        newest = {at for (name, _), at in feeder.newest.items() if name == topic}
        missing = len(newest - found) if topic in COMPACTED else max(0, wanted - len(found))
        check.expected += wanted
        check.found += len(found)
        check.missing += missing
        check.extra += max(0, len(found) - wanted)
        if missing or len(found) > wanted:
            check.example(f"{topic}: {wanted} acknowledged, {len(found)} in the log, {missing} of them missing")
    return check


def _places(bench: Bench, topic: str) -> set[tuple[int, int]]:
    """Partition and offset of a raw topic's records up to the last that was acknowledged, or the end told if later.

    An end alone is what the broker knows at that instant; what was acknowledged must come, and is waited for.
    """
    name = bench.settings.names.topic(topic)
    places = [TopicPartition(name, p) for p in range(PARTITIONS)]
    ends = kafka.end_offsets(kafka.admin(bench.settings.kafka), places)
    below = {p: max(ends[name, p], bench.feeder.ends.get((topic, p), 0)) for p in range(PARTITIONS)}
    found = set()
    with contextlib.suppress(UnreachableError):  # it does not come: it is lost
        for message in kafka.read_to_end(bench.settings.kafka, name, list(below), below=below, patience_s=LOST_S):
            found.add((cast("int", message.partition()), cast("int", message.offset())))
    return found


def _served(bench: Bench) -> Check:
    """Every server answers from the newest version and sequence on `updates`."""
    check = Check("server", "version and sequence")
    keys = [
        tuple(map(int, bytes(m.key() or b"").split(b"/")))
        for m in kafka.read_to_end(bench.settings.kafka, bench.settings.names.topic("updates"), [0])
        if m.value()
    ]
    wanted = max(keys)[:2] if keys else (0, -1)
    for _ in range(20):  # each connection goes to one of the servers
        url = f"http://127.0.0.1:{bench.settings.server.port}/version"
        with urllib.request.urlopen(url, timeout=5) as answer:
            told = json.load(answer)
        check.expected, check.found = check.expected + 1, check.found + 1
        if (came := (told["version"], told["sequence"])) != wanted:
            check.different += 1
            check.example(f"serves {came}, updates has {wanted}")
    return check
