"""The supervisor keeps what it started alive, and stops that and nothing else. Roles here are tiny programs."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psutil
import pytest

from contract.errors import RefusedError
from headrace import backoff, ports, stack
from headrace.down import down
from headrace.process import STACK_VARIABLE, Identity, find, identify, is_alive, of_stack, wait_until
from headrace.stack import Plan, ProcessRecord, Record, Service
from headrace.supervisor import LOG_MAX_BYTES, Supervisor

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
DEAF = [sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"]


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """A process that is none of ours and must outlive everything here."""
    process = subprocess.Popen(SLEEP)
    yield process
    assert process.poll() is None, "a stranger was stopped"
    process.kill()
    process.wait()


def supervise(home: Path, *services: Service) -> subprocess.Popen[bytes]:
    """Start a supervisor of some services and wait until it has started them all."""
    stack.write_plan(home, Plan(uuid4().hex, list(services), {"namespace": "live"}, {"redis": 1}, str(home)))
    process = subprocess.Popen([sys.executable, "-m", "headrace.supervisor", str(home)], start_new_session=True)
    assert wait_until(lambda: all(stack.running(home, s.name) for s in services), 20)
    return process


def pid_of(home: Path, name: str) -> int:
    record = stack.read_record(home)
    assert record is not None
    pid = record.processes[name].pid
    assert pid is not None
    return pid


def read_id(home: Path) -> str:
    record = stack.read_record(home)
    assert record is not None
    return record.stack_id


def family(home: Path) -> list[psutil.Process]:
    return of_stack(read_id(home))


def test_a_killed_role_is_started_again_and_counted(tmp_path: Path, stranger: subprocess.Popen[bytes]) -> None:
    """Kill -9 of a role: another process takes its place within seconds, the others are left alone."""
    supervisor = supervise(tmp_path, Service("streams", SLEEP), Service("trainer", SLEEP))
    first, other = pid_of(tmp_path, "streams"), pid_of(tmp_path, "trainer")
    os.kill(first, signal.SIGKILL)
    assert wait_until(lambda: stack.running(tmp_path, "streams") and pid_of(tmp_path, "streams") != first, 10)
    record = stack.read_record(tmp_path)
    assert record is not None
    assert record.processes["streams"].restarts == 1
    assert record.processes["streams"].last_exit == -signal.SIGKILL
    assert record.processes["trainer"].restarts == 0
    assert pid_of(tmp_path, "trainer") == other
    assert down(tmp_path) == ["streams", "trainer"]
    assert supervisor.wait(10) == 0
    assert family(tmp_path) == []
    assert find(Identity(stranger.pid, psutil.Process(stranger.pid).create_time())) is not None


def test_roles_start_once_the_servers_answer(tmp_path: Path) -> None:
    """No role is started before the port of every earlier stage accepts connections."""
    port = ports.free()
    serve = (
        "import socket, time; time.sleep(1); s = socket.socket(); "
        "s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); "
        f"s.bind(('127.0.0.1', {port})); s.listen(); time.sleep(600)"
    )
    plan = Plan(uuid4().hex, [Service("kafka", [sys.executable, "-c", serve], 0, port), Service("server", SLEEP)])
    supervisor = Supervisor(tmp_path, plan)
    supervisor.tick(0.0)
    assert [c.process is not None for c in supervisor.children] == [True, False]
    assert wait_until(lambda: ports.answers(port), 20)
    supervisor.tick(1.0)
    supervisor.tick(2.0)
    assert [c.process is not None for c in supervisor.children] == [True, True]
    supervisor.stop()
    assert family(tmp_path) == []


def test_down_kills_what_does_not_listen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A role that ignores SIGTERM is killed once its time is over."""
    monkeypatch.setattr(stack, "ROLE_GRACE_S", 0.5)
    plan = Plan(uuid4().hex, [Service("streams", DEAF)])
    supervisor = Supervisor(tmp_path, plan)
    supervisor.tick(0.0)
    time.sleep(0.5)  # until it is deaf
    supervisor.stop()
    assert family(tmp_path) == []


def test_orphans_of_a_killed_supervisor_are_found_and_stopped(
    tmp_path: Path, stranger: subprocess.Popen[bytes]
) -> None:
    """Kill -9 of the supervisor leaves its children running; `down` (and so the next `up`) stops them, nobody else."""
    supervisor = supervise(tmp_path, Service("redis", SLEEP, 0), Service("streams", SLEEP))
    assert len(family(tmp_path)) == 2
    supervisor.kill()
    supervisor.wait()
    assert not stack.is_supervised(tmp_path)
    assert down(tmp_path) == ["redis", "streams"]
    assert family(tmp_path) == []
    assert stranger.poll() is None


def test_a_child_whose_pid_was_never_written_down_is_found(tmp_path: Path) -> None:
    """The supervisor may die between starting a child and recording it: the stack's id in its environment tells."""
    record = Record(uuid4().hex)
    child = subprocess.Popen(SLEEP, env={**os.environ, STACK_VARIABLE: record.stack_id})
    stack.write_record(tmp_path, record)
    assert wait_until(lambda: len(of_stack(record.stack_id)) == 1, 5)
    assert down(tmp_path) == ["orphans"]
    assert child.wait(5) == -signal.SIGTERM


def test_a_stale_pid_never_stops_a_stranger(tmp_path: Path, stranger: subprocess.Popen[bytes]) -> None:
    """A pid that was given to another process since (another start time) is nobody of ours."""
    record = Record(uuid4().hex, (stranger.pid, 1.0), processes={"streams": ProcessRecord(stranger.pid, 1.0)})
    stack.write_record(tmp_path, record)
    assert not stack.running(tmp_path, "streams")
    assert down(tmp_path) == []
    identity = identify(stranger.pid)
    assert is_alive(identity)
    assert not is_alive(Identity(stranger.pid, psutil.Process(stranger.pid).create_time() - 100))


def test_there_is_one_supervisor(tmp_path: Path) -> None:
    """A second supervisor of the same data directory is refused; the lock goes with its holder."""
    with stack.supervising(tmp_path):
        assert stack.is_supervised(tmp_path)
        with pytest.raises(RefusedError, match="already runs"), stack.supervising(tmp_path):
            pass
    assert not stack.is_supervised(tmp_path)


def test_a_removed_data_directory_stops_everything(tmp_path: Path) -> None:
    """When stack.json is removed (rm -rf .headrace), the supervisor stops its children and ends."""
    home = tmp_path / "data"
    supervisor = supervise(home, Service("streams", SLEEP))
    stack_id = read_id(home)
    (home / "stack.json").unlink()
    assert supervisor.wait(20) == 0
    assert of_stack(stack_id) == []


def test_after_down_addresses_are_forgotten_and_ports_kept(tmp_path: Path) -> None:
    """Commands after `down` are not sent to servers that are gone; the next `up` prefers the same ports."""
    supervisor = supervise(tmp_path, Service("streams", SLEEP))
    record = stack.read_record(tmp_path)
    assert record is not None
    assert record.settings == {"namespace": "live"}
    down(tmp_path)
    supervisor.wait()
    record = stack.read_record(tmp_path)
    assert record is not None
    assert (record.settings, record.ports) == ({}, {"redis": 1})


@pytest.mark.parametrize("name", ["streams", "supervisor"])
def test_logs_are_bounded(name: str, tmp_path: Path) -> None:
    """A log that grew past its bound, the supervisor's own too, is moved aside once and starts from zero."""
    supervisor = Supervisor(tmp_path, Plan(uuid4().hex, [Service("streams", SLEEP)]))
    log = tmp_path / "logs" / f"{name}.log"
    log.parent.mkdir()
    log.write_bytes(b"x" * (LOG_MAX_BYTES + 1))
    supervisor.bound_logs()
    assert log.stat().st_size == 0
    assert log.with_suffix(".log.1").stat().st_size == LOG_MAX_BYTES + 1


def test_records_are_for_their_owner_only(tmp_path: Path) -> None:
    """A URL may hold a password: what is written is readable by its owner alone."""
    stack.write_record(tmp_path, Record("id", settings={"redis.url": "redis://:secret@h/0"}))
    assert (tmp_path / "stack.json").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(("failures", "delay_s"), [(1, 0.1), (2, 0.2), (3, 0.4), (7, 6.4), (9, 15.0), (50, 15.0)])
def test_back_off_doubles_up_to_a_bound(failures: int, delay_s: float) -> None:
    """The wait doubles with each failure in a row and never exceeds fifteen seconds."""
    assert backoff.delay_s(failures) == pytest.approx(delay_s)


def test_running_well_forgives_failures() -> None:
    """A process that ran well for a while starts again at once when it ends; one that did not waits longer."""
    assert backoff.failures_after(6, ran_s=backoff.WELL_S) == 1
    assert backoff.failures_after(6, ran_s=backoff.WELL_S - 1) == 7
