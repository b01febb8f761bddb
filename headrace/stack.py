"""What is known of a local stack, under its data directory.

    supervisor.lock   held by the running supervisor; the kernel lets go of it however the supervisor ends
    plan.json         what `up` asked the supervisor to run
    stack.json        what runs: addresses, ports, pids with start times, restarts (written by the supervisor)
    example.json      whether the example was replayed
    logs/             one file per process

Files are replaced whole (write beside, rename) and readable by their owner only: a URL may hold a password.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from contract.errors import DataLossError, RefusedError
from headrace.process import Identity, find, is_alive, of_stack, stop, wait_until

SERVERS = ("kafka", "redis")  # stopped last, in reverse: Redis, then Kafka
ROLES = ("streams", "trainer", "publisher", "server")
ROLE_GRACE_S = 20.0
SERVER_GRACE_S = 30.0


@dataclass(frozen=True)
class Service:
    """One process to keep alive. Services of a later stage start once all ports of the earlier ones answer."""

    name: str
    command: list[str]
    stage: int = 1
    port: int | None = None
    host: str = "127.0.0.1"  # that the port is of


@dataclass(frozen=True)
class Plan:
    """What a supervisor is to run; `settings` are dotted names that other commands load beneath the environment.

    Secrets are not among them: of these there is a salted digest each, to know them again by.
    """

    stack_id: str
    services: list[Service]
    settings: dict[str, Any] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)
    cwd: str = "."
    secrets: dict[str, str] = field(default_factory=dict)


@dataclass
class ProcessRecord:
    """A process as last seen by the supervisor."""

    pid: int | None = None
    created: float = 0.0
    restarts: int = 0
    state: str = "waiting"  # waiting, running, backing-off, stopped
    last_exit: int | None = None
    started_ms: int = 0
    worker: int | None = None  # pid of what a role's starter has forked

    @property
    def identity(self) -> Identity | None:
        """Pid and start time, if it was ever started."""
        return None if self.pid is None else Identity(self.pid, self.created)


@dataclass
class Record:
    """Contents of stack.json."""

    stack_id: str
    supervisor: tuple[int, float] | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)
    processes: dict[str, ProcessRecord] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)


def write_json(path: Path, value: object) -> None:
    """Replace a file whole; readable by its owner only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}.new")
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
        json.dump(value, out, indent=1, default=str)
        out.flush()
        os.fsync(out.fileno())
    beside.replace(path)


def read_json(path: Path) -> Any:
    """Contents of a file of ours, None if there is none; DataLossError if it does not parse."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise DataLossError(f"{path} does not parse ({error}): remove it, it only tells what runs") from None


def write_plan(home: Path, plan: Plan) -> None:
    """Leave a plan for a supervisor."""
    write_json(home / "plan.json", asdict(plan))


def read_plan(home: Path) -> Plan:
    """Read the plan that `up` left."""
    found = read_json(home / "plan.json")
    return Plan(**found | {"services": [Service(**s) for s in found["services"]]})


def write_record(home: Path, record: Record) -> None:
    """Write stack.json."""
    write_json(home / "stack.json", asdict(record))


def read_record(home: Path) -> Record | None:
    """Read stack.json; None if there is none."""
    found = read_json(home / "stack.json")
    if found is None:
        return None
    try:
        processes = {name: ProcessRecord(**p) for name, p in found.pop("processes").items()}
        return Record(**found, processes=processes)
    except (KeyError, TypeError, AttributeError) as error:
        raise DataLossError(f"{home / 'stack.json'} is not what a supervisor writes ({error}): remove it") from None


@contextlib.contextmanager
def supervising(home: Path, patience_s: float = 0.0) -> Iterator[None]:
    """Be the one supervisor of this data directory; RefusedError if there is one.

    Somebody who only looks holds the lock for an instant, so a supervisor waits a little.
    """
    home.mkdir(parents=True, exist_ok=True)
    with (home / "supervisor.lock").open("w") as lock:
        if not wait_until(lambda: _take(lock.fileno()), patience_s):
            raise RefusedError(f"a supervisor already runs for {home}: `headrace down` stops it")
        yield


def _take(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_supervised(home: Path) -> bool:
    """Whether a supervisor of this data directory runs."""
    if not (home / "supervisor.lock").exists():
        return False
    try:
        with supervising(home):
            return False
    except RefusedError:
        return True


def running(home: Path, name: str) -> bool:
    """Whether a process of the stack runs right now."""
    record = read_record(home)
    return record is not None and name in record.processes and is_alive(record.processes[name].identity)


def orphans(record: Record) -> list[list[psutil.Process]]:
    """What a dead supervisor left behind, in the order to stop it: roles (and unknown ones), Redis, Kafka."""
    known = {p.identity.pid: name for name, p in record.processes.items() if p.identity}
    recorded = [find(p.identity) for p in record.processes.values() if p.identity]
    found = {p.pid: p for p in [*of_stack(record.stack_id), *recorded] if p is not None}
    found.pop(os.getpid(), None)
    servers = [[p for p in found.values() if known.get(p.pid) == name] for name in reversed(SERVERS)]
    rest = [p for p in found.values() if known.get(p.pid) not in SERVERS]
    return [stage for stage in (rest, *servers) if stage]


def stop_orphans(record: Record) -> int:
    """Stop what a dead supervisor left behind; give how many there were."""
    stages = orphans(record)
    for processes in stages:
        stop(processes, SERVER_GRACE_S)
    return sum(map(len, stages))
