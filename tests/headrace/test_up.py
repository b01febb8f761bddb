"""`headrace up` and `down` as a user runs them, and the replay that happens once."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import NewTopic

from contract import health
from contract import kafka as edge
from contract.errors import BadInputError, HeadraceError, RefusedError, UnreachableError
from contract.settings import environment_of, load
from headrace import example, options, ports, ready, stack, status, up
from headrace.down import down
from headrace.process import of_stack, wait_until
from tests.conftest import SettingsFactory

HEADRACE = [sys.executable, "-m", "headrace"]
EXPOSURE = '{"request_id":"r%d","user_id":"u","ts_ms":%d,"items":["i"]}\n'


def test_a_taken_port_gives_another_and_is_said() -> None:
    """Wanted ports that are free are kept, taken ones replaced by free ones, no port is given twice."""
    said: list[str] = []
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        busy, idle = taken.getsockname()[1], ports.free()
        chosen = up.choose_ports({"kafka": busy, "redis": idle, "server.port": idle}, said.append)
    assert chosen["redis"] == idle
    assert len({busy, *chosen.values()}) == 4
    assert [line.split(":")[0] for line in said] == [f"port {busy} is taken", f"port {idle} is taken"]


def test_what_was_started_is_stopped_when_cut_short(tmp_path: Path) -> None:
    """An error or Ctrl-C before the end stops what this call started, and leaves alone what ran before."""
    sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    stack.write_plan(tmp_path, stack.Plan("test-cut-short", [stack.Service("streams", sleep)], cwd=str(tmp_path)))
    started = []

    def begin(then: type[BaseException]) -> None:
        if not stack.is_supervised(tmp_path):
            command = [sys.executable, "-m", "headrace.supervisor", str(tmp_path)]
            started.append(subprocess.Popen(command, start_new_session=True))
        assert wait_until(lambda: stack.running(tmp_path, "streams"), 20)
        raise then

    with pytest.raises(KeyboardInterrupt), up.undone_if_cut_short(tmp_path, print):
        begin(KeyboardInterrupt)
    assert of_stack("test-cut-short") == []
    with pytest.raises(UnreachableError):
        begin(UnreachableError)
    with pytest.raises(KeyboardInterrupt), up.undone_if_cut_short(tmp_path, print):
        begin(KeyboardInterrupt)
    assert stack.running(tmp_path, "streams")
    down(tmp_path)
    assert [one.wait(10) for one in started] == [0, 0]


def test_the_example_is_replayed_once(settings: SettingsFactory, tmp_path: Path) -> None:
    """A second replay sends nothing; one whose mark was lost, or that was cut short, sends only what is missing."""
    mine = settings()
    events = tmp_path / "example"
    events.mkdir()
    lines = [EXPOSURE % (n, 1_650_000_000_000 + n) for n in range(20)]
    (events / "exposures.jsonl").write_text("".join(lines[:15]))
    assert example.replay_once(mine, events, 0, print)
    assert not example.replay_once(mine, events, 0, print)
    (mine.data_dir / "example.json").unlink()
    assert not example.replay_once(mine, events, 0, print)
    (mine.data_dir / "example.json").unlink()
    (events / "exposures.jsonl").write_text("".join(lines))  # as if the first replay had died after fifteen
    assert example.replay_once(mine, events, 0, print)
    topic = mine.names.topic("exposures")
    counts = edge.partition_counts(edge.admin(mine.kafka))
    found = [message.value() or b"" for message in edge.read_to_end(mine.kafka, topic, list(range(counts[topic])))]
    assert sorted(found) == sorted(line.strip().encode() for line in lines)


def test_a_kafka_that_falls_silent_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting goes on while Kafka does not answer, says so, and ends only once nothing has moved for too long."""
    monkeypatch.setattr(ready, "STUCK_S", 2.0)
    monkeypatch.setattr(ready, "SAID_EVERY_S", 0.5)
    address = f"127.0.0.1:{ports.free()}"
    mine = load({"kafka.bootstrap_servers": address, "kafka.reach_timeout_ms": 300, "data_dir": tmp_path})
    said: list[str] = []
    with pytest.raises(UnreachableError, match=r"nothing moved .*Kafka does not answer"):
        ready.wait(mine, said.append, calm_s=1.0)
    assert said.count(ready.SILENT) >= 2


URL = "redis://:s3cret@127.0.0.1:1/0"


@pytest.fixture
def with_secret(tmp_path: Path) -> Iterator[Path]:
    """Data directory of a running stack (one idle process) that was started with a Redis URL that holds a password."""
    given = load({"redis.url": URL, "train.batch": 64, "data_dir": tmp_path})
    idle = stack.Service("streams", [sys.executable, "-c", "import time; time.sleep(600)"])
    digests, recorded = options.digests(given, "test-secret"), options.differences(given)
    stack.write_plan(tmp_path, stack.Plan("test-secret", [idle], recorded, cwd=str(tmp_path), secrets=digests))
    supervisor = subprocess.Popen([sys.executable, "-m", "headrace.supervisor", str(tmp_path)], start_new_session=True)
    assert wait_until(lambda: stack.running(tmp_path, "streams"), 20)
    yield tmp_path
    down(tmp_path)
    assert supervisor.wait(20) == 0


def test_a_running_stack_knows_its_secrets_again(with_secret: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`up` again with the same password finds it running, with another is refused, with none says how to give it.

    The password is in no file; `down` forgets the digest too.
    """
    given, said = {"data_dir": str(with_secret)}, list[str]()
    settings, started = up.start({**given, "redis.url": URL}, said.append)
    assert (settings.redis.url.get_secret_value(), started, said) == (URL, False, ["it runs already"])
    with pytest.raises(RefusedError, match=r"another redis\.url"):
        up.start({**given, "redis.url": URL.replace("s3cret", "s4cret")}, print)
    with pytest.raises(BadInputError, match="HEADRACE_REDIS__URL"):
        up.start(given, print)
    monkeypatch.setenv("HEADRACE_REDIS__URL", URL)
    assert not up.start(given, print)[1]
    assert not up.start({**given, "train.batch": "064"}, print)[1]
    monkeypatch.setenv("HEADRACE_TRAIN__BATCH", "32")
    with pytest.raises(RefusedError, match=r"another train\.batch:"):
        up.start(given, print)
    down(with_secret)
    written = [path.read_text() for path in with_secret.rglob("*") if path.is_file()]
    assert written
    assert not any("s3cret" in text for text in written)
    record = stack.read_record(with_secret)
    assert record is not None
    assert record.secrets == {}


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "0.0.0.0", "::1", "::"])  # noqa: S104  (what is tested)
def test_a_role_is_asked_where_it_listens(host: str) -> None:
    """A role counts as well when its page answers at its own address; listening everywhere, on the loopback."""
    try:
        pages = health.serve(0, lambda: {"ok": True}, host)
    except OSError as error:
        pytest.skip(f"no such address here: {error}")
    port = pages.server_address[1]
    try:
        assert up.is_well(stack.Service("server", [], 1, port, host))
        assert ports.answers(port, host)
        if host == "127.0.0.2":
            assert not up.is_well(stack.Service("server", [], 1, port))
    finally:
        pages.shutdown()
        pages.server_close()
    assert not up.is_well(stack.Service("server", [], 1, port, host))


@pytest.mark.parametrize("role", ["streams", "trainer", "publisher"])
def test_pages_of_a_role_listen_where_they_are_told(role: str, settings: SettingsFactory) -> None:
    """With pages_host a role's /healthz answers at that address, and not on the loopback's usual one."""
    mine = settings(pages_host="127.0.0.2")
    edge.create_topics(mine)  # not made and used in the same instant: there is no supervisor to start the role again
    port = {"streams": mine.streams.port, "trainer": mine.train.port, "publisher": mine.publisher.port}[role]
    environment = {**os.environ, **environment_of(mine), "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen([*HEADRACE, "run", role], env=environment)
    try:
        assert wait_until(lambda: up.is_well(stack.Service(role, [], 1, port, mine.pages_host)), 60)
        assert not ports.answers(port)
    finally:
        process.terminate()
        assert process.wait(30) == 0


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """Data directory whose stack is stopped at the end, whatever happened."""
    directory = tmp_path / ".headrace"
    yield directory
    down(directory)
    record = stack.read_record(directory)
    assert record is None or of_stack(record.stack_id) == []


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [*HEADRACE, *arguments], capture_output=True, text=True, check=False, cwd=cwd, env=environment, timeout=150
    )
    assert done.returncode == 0, done.stderr
    return done


def test_a_topic_that_producers_stamp_is_said_once(settings: SettingsFactory) -> None:
    """`status` names the raw topics of CreateTime and the way out in one line; ours have LogAppendTime: nothing."""
    mine = settings()
    assert status.advice(mine) is None  # no topic at all
    client = edge.admin(mine.kafka)
    names = [mine.names.topic(topic) for topic in ("exposures", "clicks")]
    config = {"message.timestamp.type": "CreateTime"}
    for made in client.create_topics([NewTopic(name, 4, 1, config=config) for name in names]).values():
        made.result(30)
    edge.create_topics(mine)
    said = status.advice(mine)
    assert said is not None
    assert said.startswith(f"{', '.join(names)}: message.timestamp.type is CreateTime")
    assert f"--topic {names[0]} --add-config message.timestamp.type=LogAppendTime" in said
    alike = settings()
    edge.create_topics(alike)
    assert status.advice(alike) is None


@pytest.mark.timeout(400)
def test_up_is_idempotent_and_down_leaves_nothing(home: Path, tmp_path: Path) -> None:
    """From nothing: everything runs and a model is served. Again: nothing happens; with other settings it is refused.

    The supervisor killed: `down` finds what it left. No process stays, the data does.
    """
    first = json.loads(run("up", "--no-example", "--set", "train.batch=64", cwd=tmp_path).stdout)
    assert {name for name, one in first["roles"].items() if one["alive"]} == {*stack.SERVERS, *stack.ROLES}
    assert first["lag"] == 0
    assert first["version"] >= 1
    again = json.loads(run("up", "--no-example", cwd=tmp_path).stdout)
    pids = {name: one["pid"] for name, one in first["roles"].items()}
    assert {name: one["pid"] for name, one in again["roles"].items()} == pids
    with pytest.raises(RefusedError, match=r"train\.batch"):
        up.start({"data_dir": str(home), "train.batch": "32"}, print)
    record = stack.read_record(home)
    assert record is not None
    assert record.settings["train.batch"] == "64"
    assert record.supervisor is not None
    os.kill(record.supervisor[0], signal.SIGKILL)
    assert wait_until(lambda: not stack.is_supervised(home), 10)
    assert "stopped kafka, redis" in run("down", cwd=tmp_path).stdout
    assert of_stack(record.stack_id) == []
    assert "nothing was running" in run("down", cwd=tmp_path).stdout
    assert (home / "kafka" / "kraft" / "meta.properties").exists()


def test_a_given_kafka_that_does_not_answer_starts_nothing(tmp_path: Path) -> None:
    """`up --bootstrap-server` on a dead address says so, and leaves no process and no plan."""
    given = {
        "data_dir": str(tmp_path / "data"),
        "kafka.bootstrap_servers": f"127.0.0.1:{ports.free()}",
        "kafka.reach_timeout_ms": "300",
    }
    with pytest.raises(HeadraceError, match="does not answer"):
        up.start(given, print)
    assert not (tmp_path / "data" / "plan.json").exists()
