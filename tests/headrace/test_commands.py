"""The command line: JSON in a pipe, one line and an exit code for everything that is wrong."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis
from confluent_kafka import KafkaError, KafkaException

from contract.settings import Settings, environment_of, load
from contract.topics import RAW_INPUTS, TOPICS
from headrace import cli, options, ports, stack, tables
from headrace.stack import Record
from tests.conftest import SettingsFactory

HEADRACE = [sys.executable, "-m", "headrace"]
ROOT = Path(__file__).parents[2]
EVENTS = ["exposures", "clicks", "samples", "outcomes", "dead_letters"]
MODEL = ["version", "sequence", "full_updates", "recall_at_50", "popularity_recall_at_50", "freshness_ms"]


def command(
    *arguments: str, cwd: Path, settings: Settings | None = None, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **(environment_of(settings) if settings else {})}
    return subprocess.run(
        [*HEADRACE, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env=environment,
        input=stdin,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("lag --set join.window_ms", "name=value"),
        ("lag --set join.window_ms=abc", "join.window_ms"),
        ("lag --set join.window_ms=0", "join.window_ms"),
        ("lag --set nonsense.x=1", "nonsense"),
        ("lag --set model.history_decays=[oops", "model.history_decays"),
        ("lag --namespace Not_Good!", "namespace"),
        ("lag --redis-url x", "--redis-url"),
        ("recall", "user"),
        ("recall u -k 0", "-k"),
        ("recall u -k many", "-k"),
        ("recall u --context nothing", "name=value"),
        ("schema nonsense", "nonsense"),
        ("topics --markdown --json", "exclude"),
        ("produce", "topic"),
        ("produce nonsense", "nonsense"),
        ("produce clicks no-such-file.jsonl", "no-such-file.jsonl"),
        ("produce --dir no-such-directory", "no-such-directory"),
        ("produce clicks --rate -1", "--rate"),
        ("produce clicks --speed 5", "--speed"),
        ("produce clicks --resume again", "--resume"),
        ("produce --dir . --rate 5", "--rate"),
        ("produce --dir . clicks", "TOPIC"),
        ("produce items my.jsonl --delete i", "FILE"),
        ("tail nonsense", "nonsense"),
        ("replay", "--dlq"),
        ("replay --dlq nonsense", "nonsense"),
        ("replay --as x --since yesterday", "--since"),
        ("replay --as x --since 0001-01-01", "--since"),
        ("replay --as x --until 99999999999999999999", "--until"),
        ("recall \udcff", "UTF-8"),
        ("recall u --context a=\udcff", "UTF-8"),
        ("run nonsense", "nonsense"),
        ("run streams --slot -1", "--slot"),
        ("run streams --slot 595", "--slot"),
        ("run trainer --slot 1", "--slot"),
        ("up --speed 0", "--speed"),
        ("nonsense", "nonsense"),
        ("train", "command"),
        ("train nonsense", "nonsense"),
        ("train full --day yesterday", "2022-04-24, got 'yesterday'"),
    ],
)
def test_a_bad_value_is_one_line_and_exit_2(line: str, names: str, tmp_path: Path) -> None:
    """Whatever is wrong on the command line is named in one line on standard error, exit 2, nothing on output."""
    done = command(*line.split(), cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert names in done.stderr


@pytest.mark.parametrize("line", ["lag", "tail clicks", "produce clicks"])
def test_an_unreachable_broker_is_named_within_five_seconds(line: str, tmp_path: Path) -> None:
    """No broker: exit 3 in about five seconds, the address and what to check in one line, no noise of the client."""
    port = ports.free()
    start = time.monotonic()
    done = command(*line.split(), "--bootstrap-server", f"127.0.0.1:{port}", cwd=tmp_path)
    assert load().kafka.reach_timeout_ms <= 3_500  # the rest of the five seconds is for Python to start
    assert time.monotonic() - start < 20  # however busy the machine is
    assert done.returncode == 3
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert f"127.0.0.1:{port}" in done.stderr
    assert "--bootstrap-server" in done.stderr


def test_what_the_system_refuses_is_one_line(tmp_path: Path) -> None:
    """An error of the system (a data directory beneath a file) is one line, exit 3, without a traceback."""
    (tmp_path / "file").touch()
    done = command("lag", "--set", "data_dir=file/beneath", cwd=tmp_path)
    assert done.returncode == 3
    assert done.stderr.startswith("headrace: NotADirectoryError: ")
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_a_closed_pipe_ends_a_command_in_silence(tmp_path: Path) -> None:
    """`headrace ... | head -1`: whoever reads has gone, so the command ends without a word, exit 0."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as nobody:
        done = subprocess.run(
            [*HEADRACE, "schema"], check=False, stdout=nobody, stderr=subprocess.PIPE, cwd=tmp_path, env=environment
        )
    assert (done.stderr, done.returncode) == (b"", 0)


@pytest.mark.parametrize(("line", "code"), [("schema", 0), ("nonsense", 2), ("produce clicks --rate x", 2)])
@pytest.mark.parametrize("streams", ["<&- >&- 2>&-", ">&-", "2>/dev/full"])
def test_closed_streams_change_no_exit_code(streams: str, line: str, code: int, tmp_path: Path) -> None:
    """Started without standard streams, or with nobody to hear, a command ends as it would otherwise."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = ["sh", "-c", f'exec "$0" "$@" {streams}', *HEADRACE, *line.split()]
    done = subprocess.run(command, check=False, capture_output=True, cwd=tmp_path, env=environment, timeout=60)
    assert done.returncode == code, done.stderr
    assert b"Traceback" not in done.stderr


def test_only_errors_from_outside_lose_their_traceback() -> None:
    """Kafka, Redis, the system and time-outs are told in a line; a bug of ours keeps its traceback."""
    outside = [
        KafkaException(KafkaError(-185)),
        redis.ConnectionError("gone"),
        TimeoutError("slow"),
        OSError(28, "full"),
    ]
    assert all(map(cli.is_outside, outside))
    assert not any(map(cli.is_outside, [KeyError("x"), ValueError("x"), AssertionError()]))


def test_an_unreachable_recall_server_is_named(tmp_path: Path) -> None:
    """No server: exit 3 and its address."""
    port = ports.free()
    done = command("recall", "u", "--set", f"server.port={port}", cwd=tmp_path)
    assert done.returncode == 3
    assert f"127.0.0.1:{port}" in done.stderr


def test_status_shows_null_for_what_is_down(tmp_path: Path) -> None:
    """With neither Kafka nor Redis, status still answers, with exactly its keys."""
    closed = ports.free()
    done = command(
        "status",
        "--bootstrap-server",
        f"127.0.0.1:{closed}",
        "--redis-url",
        f"redis://127.0.0.1:{closed}/0",
        "--set",
        "kafka.reach_timeout_ms=300",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert list(found) == [*EVENTS, "lag", *MODEL, "gate", "roles"]
    assert [value for value in found.values() if value is not None] == [{}]


def test_lag_in_a_pipe_is_json(settings: SettingsFactory, tmp_path: Path) -> None:
    """`headrace lag` in a pipe prints one document with kafka-consumer-groups' facts and seconds."""
    mine = settings()
    done = command(
        "produce", "clicks", cwd=tmp_path, settings=mine, stdin='{"user_id":"u","item_id":"i","ts_ms":1650000000000}\n'
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"sent": {"clicks": 1}, "bad": 0}
    rows = json.loads(command("lag", cwd=tmp_path, settings=mine).stdout)
    assert set(rows[0]) == {"group", "topic", "partition", "committed", "end", "lag", "behind_s", "state"}
    assert sum(row["lag"] for row in rows) == 1
    record = json.loads(command("tail", "clicks", cwd=tmp_path, settings=mine).stdout)
    assert record["value"]["item_id"] == "i"


def test_a_broken_line_is_named(settings: SettingsFactory, tmp_path: Path) -> None:
    """The second line is broken: it is named, exit 2; with --skip-bad the rest goes on and it is counted."""
    mine = settings()
    good = '{"user_id":"u","item_id":"i","ts_ms":1650000000000}\n'
    (tmp_path / "my.jsonl").write_text(good + "{broken\n" + good)
    done = command("produce", "clicks", "my.jsonl", cwd=tmp_path, settings=mine)
    assert done.returncode == 2
    assert "my.jsonl:2" in done.stderr
    done = command("produce", "clicks", "my.jsonl", "--skip-bad", cwd=tmp_path, settings=mine)
    assert json.loads(done.stdout) == {"sent": {"clicks": 2}, "bad": 1}


def test_schema_is_of_the_raw_topics(tmp_path: Path) -> None:
    """`headrace schema` gives the JSON Schema of each raw topic, or of one."""
    everything = json.loads(command("schema", cwd=tmp_path).stdout)
    assert set(everything) == set(RAW_INPUTS)
    assert json.loads(command("schema", "ranking-drops", cwd=tmp_path).stdout) == everything["ranking-drops"]


def test_every_setting_is_listed_and_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`topics --settings` names every setting with help and the variable that sets it."""
    rows = json.loads(command("topics", "--settings", cwd=tmp_path).stdout)
    assert all(row["what"] for row in rows)
    for row in rows:
        if row["default"]:
            monkeypatch.setenv(row["environment"], row["default"])
    assert load() is not None
    names = {row["setting"] for row in rows}
    assert {"namespace", "join.window_ms", "redis.url", "kafka.sasl_password", "server.port"} <= names


def test_the_record_of_the_stack_lies_beneath_environment_and_flags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Settings: defaults < what `up` recorded < environment < flags."""
    monkeypatch.chdir(tmp_path)
    assert options.settings().server.port == 8000
    stack.write_record(tmp_path / ".headrace", Record("id", settings={"server.port": 8001, "train.port": 8002}))
    assert options.settings().server.port == 8001
    monkeypatch.setenv("HEADRACE_SERVER__PORT", "8003")
    assert (options.settings().server.port, options.settings().train.port) == (8003, 8002)
    assert options.settings(sets=["server.port=8004"]).server.port == 8004


def test_a_value_that_may_be_a_secret_is_not_repeated(tmp_path: Path) -> None:
    """A password that looks like a list, a misspelt one, or a URL where a pair is wanted, stands in no error."""
    for text in ("kafka.sasl_password=[hidden", "kafka.sasl_pasword=[hidden", "redis://:hidden@h/0", "redis=[hidden"):
        done = command("status", "--set", text, "--set", "log_level=loud", cwd=tmp_path)
        assert done.returncode == 2
        assert "hidden" not in done.stderr


def test_no_secret_is_written_down() -> None:
    """What `up` records of the settings holds no password and no URL with one."""
    chosen = load({"redis.url": "redis://:hidden@h:1/0", "kafka.sasl_password": "hidden", "server.port": 8001})
    assert options.differences(chosen) == {"server.port": "8001"}
    assert options.differences(load({"redis.url": "redis://h:1/0?password=hidden"})) == {}
    assert options.differences(load({"redis.url": "redis://h:1/0"})) == {"redis.url": "redis://h:1/0"}


def test_a_digest_knows_a_secret_again_and_does_not_tell_it() -> None:
    """The same secret has the same digest under one salt, another under another; nothing else has one."""
    chosen = load({"redis.url": "redis://:hidden@h:1/0", "kafka.sasl_password": "hidden", "server.port": 8001})
    made = options.digests(chosen, "salt")
    assert set(made) == {"redis.url", "kafka.sasl_password"}
    assert made == options.digests(chosen, "salt")
    assert not set(made.values()) & set(options.digests(chosen, "pepper").values())
    other = load({"redis.url": "redis://:hiddem@h:1/0"})
    assert options.digests(other, "salt")["redis.url"] != made["redis.url"]
    assert "hidden" not in json.dumps(made)


@pytest.mark.parametrize(
    ("line", "code", "names"),
    [
        ("status", 2, ["--redis-url", "HEADRACE_REDIS__URL", "HEADRACE_KAFKA__SASL_PASSWORD"]),
        ("audit", 2, ["--redis-url", "HEADRACE_REDIS__URL"]),
        ("lag", 2, ["--set kafka.sasl_password=...", "HEADRACE_KAFKA__SASL_PASSWORD"]),
        ("tail clicks --set kafka.sasl_password=x --set kafka.bootstrap_servers=127.0.0.1:1", 3, ["127.0.0.1:1"]),
        ("recall u", 3, ["recall server"]),
    ],
)
def test_a_secret_that_is_needed_and_missing_is_named(line: str, code: int, names: list[str], tmp_path: Path) -> None:
    """The running stack has secrets, which are not written down: who needs one says in a line how to give it."""
    asked = {"kafka.security_protocol": "SASL_PLAINTEXT", "kafka.sasl_mechanism": "PLAIN", "kafka.sasl_username": "u"}
    recorded = asked | {"server.port": str(ports.free()), "kafka.reach_timeout_ms": "300"}
    secrets = {"redis.url": "0" * 64, "kafka.sasl_password": "0" * 64}
    stack.write_record(tmp_path / ".headrace", Record("id", settings=recorded, secrets=secrets))
    done = command(*line.split(), cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert all(name in done.stderr for name in names), done.stderr


def test_another_server_on_the_port_is_one_line(redis_url: str, tmp_path: Path) -> None:
    """What listens on server.port is no recall server (here Redis): exit 3 and its address."""
    port = redis_url.rpartition(":")[2].partition("/")[0]
    done = command("recall", "u", "--set", f"server.port={port}", cwd=tmp_path)
    assert done.returncode == 3
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert f"127.0.0.1:{port}" in done.stderr


def test_the_readme_table_of_topics_is_the_code() -> None:
    """README's table between its markers is what `headrace topics --markdown` prints."""
    text = (ROOT / "README.md").read_text()
    between = text.split("<!-- topics -->")[1].split("<!-- /topics -->")[0].strip()
    assert between == tables.markdown(tables.COLUMNS, tables.topic_rows()).strip()


def test_every_topic_is_in_the_table() -> None:
    """The table has one row for each topic of the one list, in its order."""
    assert [row[0] for row in tables.topic_rows()] == [topic.name for topic in TOPICS]
