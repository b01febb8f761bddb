"""Every process of a stack, each on a leash, started again at once when it ends: a supervisor without back-off.

A role is a starter and its worker (headrace.prefork). Faults hit the worker, which does the work; some hit the starter
too, and then everything is imported anew.

kafka redis     servers, on ports and directories that stay the same
streams-0 ..    two workers (slots) of streams; a storm adds more
trainer publisher
server-0 ..     two recall servers on one port
"""

import contextlib
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import psutil

from contract.settings import Settings, environment_of
from headrace import ports
from headrace.process import wait_until, worker_of

HEADRACE = [sys.executable, "-m", "headrace"]
TICK_S = 0.05
START_S = 60.0
BURST = 20  # ends of one process within BURST_S: it will not come back
BURST_S = 10.0
FORKED_AGAIN = b'event="worker killed"'


class Member:
    """One process: how to start it, and what it is at the moment."""

    def __init__(self, name: str, command: list[str], environment: dict[str, str], log: Path) -> None:
        self.name, self.command, self.environment, self.log = name, command, environment, log
        self.leash: subprocess.Popen[bytes] | None = None
        self.held = False  # down on purpose
        self.ends: list[tuple[float, int]] = []  # (monotonic time, exit code)

    def start(self) -> None:
        """Start it."""
        environment = {
            **os.environ,
            **self.environment,
            "CRASH_POINT_FILE": str(self.crash_point),
            "PYTHONFAULTHANDLER": "1",  # SIGABRT tells where a process hangs
        }
        with self.log.open("ab") as out:
            self.leash = subprocess.Popen(
                [sys.executable, "-m", "headrace.leash", *self.command],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )

    @property
    def crash_point(self) -> Path:
        """File that names the kill point of the next start."""
        return self.log.with_suffix(".crash")

    def let_go(self) -> None:
        """Forget a leash that has ended."""
        if self.leash is not None and self.leash.stdin is not None:
            self.leash.stdin.close()
        self.leash = None

    @property
    def process(self) -> psutil.Process | None:
        """The process below the leash: a server, or the starter of a role."""
        if self.leash is None or self.leash.poll() is not None:
            return None
        with contextlib.suppress(psutil.NoSuchProcess):
            return next(iter(psutil.Process(self.leash.pid).children()), None)
        return None

    @property
    def worker(self) -> psutil.Process | None:
        """The process that does the work."""
        process = self.process
        with contextlib.suppress(psutil.NoSuchProcess):
            pid = None if process is None else worker_of(process.pid)
            return process if pid is None else psutil.Process(pid)
        return None

    def signal(self, number: int, *, whole: bool = False) -> bool:
        """Send a signal to the worker, or to the starter, with which the worker dies; whether there was one."""
        process = self.process if whole else self.worker
        with contextlib.suppress(psutil.NoSuchProcess):
            if process is not None:
                process.send_signal(number)
                return True
        return False

    def deaths(self) -> int:
        """How often it was started again, by its starter or by the fleet."""
        return len(self.ends) + self.log.read_bytes().count(FORKED_AGAIN)


class Fleet:
    """Starts, watches, kills. Everything that is asked of it goes by a member's name."""

    def __init__(self, settings: Settings, home: Path) -> None:
        self.settings, self.home = settings, home
        self.members: dict[str, Member] = {}
        self.kills: Counter[str] = Counter()  # kill -9 of a process, by role
        self.broken: list[str] = []
        self.replaced: list[Member] = []
        self._lock = threading.RLock()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="fleet")
        (home / "logs").mkdir(parents=True)

    def add(
        self, name: str, command: list[str], port: int | None = None, environment: dict[str, str] | None = None
    ) -> None:
        """Start a member under a new name; returns when `port` answers."""
        told = {**environment_of(self.settings), **(environment or {})}
        member = Member(name, command, told, self.home / "logs" / f"{name}.log")
        with self._lock:
            self.members[name] = member
            member.start()
        if port is not None and not wait_until(lambda: ports.answers(port), START_S):
            raise RuntimeError(f"{name} did not start: {self.tail(name)}")

    def add_role(self, role: str, slot: int = 0) -> str:
        """Start a role; streams workers and publishers get web ports of their own. Gives the member's name."""
        name = f"{role}-{slot}" if role in {"streams", "server"} else role
        slots = ["--slot", str(slot)] if role == "streams" else []
        own = {"HEADRACE_STREAMS__PORT": str(self._streams_port(slot))} if slot else {}
        self.add(name, [*HEADRACE, "run", role, *slots], environment=own)
        return name

    def _streams_port(self, slot: int) -> int:
        """A setting from which the slot counts up to a free port; it may be none of the other settings."""
        settings = self.settings
        above = settings.streams.port_of(slot) - settings.streams.port
        used = {settings.train.port, settings.publisher.port, settings.server.port}
        while (port := ports.free() - above) in used:
            pass
        return port

    def watch(self) -> None:
        """Start again whatever ends, from now on."""
        self._thread.start()

    def names(self, role: str = "") -> list[str]:
        """Members of a role, or all roles' members."""
        return [n for n in self.members if (n.split("-")[0] == role if role else n not in {"kafka", "redis"})]

    # ---- harm

    def kill(self, *names: str, whole: bool = False) -> None:
        """Kill -9 members at once, with their starters or without."""
        with self._lock:
            for name in names:
                self.kills[name.split("-")[0]] += self.members[name].signal(signal.SIGKILL, whole=whole)

    def hold(self, name: str, number: int = signal.SIGKILL) -> None:
        """End a member and keep it down."""
        member = self.members[name]
        member.held = True
        if member.signal(number, whole=True) and number == signal.SIGKILL:
            self.kills[name.split("-", maxsplit=1)[0]] += 1
        leash = member.leash  # the watching thread may let go of it meanwhile
        if leash is not None:
            leash.wait(60)
        member.let_go()

    def release(self, name: str) -> None:
        """Let a member run again."""
        self.members[name].held = False

    def remove(self, name: str) -> None:
        """End a member for good, in order."""
        self.hold(name, signal.SIGTERM)
        with self._lock:
            del self.members[name]

    def pause(self, name: str) -> None:
        """SIGSTOP."""
        self.members[name].signal(signal.SIGSTOP)

    def go_on(self, name: str) -> None:
        """SIGCONT."""
        self.members[name].signal(signal.SIGCONT)

    def limit_files(self, names: Iterable[str], limit_bytes: int) -> None:
        """Bound the size of files that members write; -1: no bound."""
        for name in names:
            member = self.members[name]
            for process in filter(None, (member.process, member.worker)):  # what is forked later inherits it
                hard = resource.RLIM_INFINITY
                with contextlib.suppress(ProcessLookupError):
                    limits = (hard if limit_bytes < 0 else limit_bytes, hard)
                    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, limits)

    def crash_at(self, name: str, point: str, times: int) -> int:
        """Kill a member so that it dies once more at a kill point; gives how often it had died before."""
        member = self.members[name]
        with self._lock:
            member.crash_point.write_text(f"{point}:{times}", encoding="utf-8")
            died = member.deaths()
            self.kill(name)
        return died

    def replace(self, name: str) -> None:
        """Start another process under a name; the one before is no longer ours to start, but is stopped at the end."""
        with self._lock:
            old = self.members[name]
            self.replaced.append(old)
            member = self.members[name] = Member(name, old.command, old.environment, old.log)
            member.start()

    # ---- care

    def _watch(self) -> None:
        while not self._ending.wait(TICK_S):
            with self._lock:
                for member in self.members.values():
                    if member.leash is not None and (code := member.leash.poll()) is not None:
                        member.ends.append((time.monotonic(), code))
                        member.let_go()
                    if member.leash is None and not member.held:
                        self._restart(member)

    def _restart(self, member: Member) -> None:
        if len(member.ends) >= BURST and member.ends[-BURST][0] > time.monotonic() - BURST_S:
            self.broken.append(f"{member.name} keeps ending: {self.tail(member.name, 300)}")
            member.held = True
            return
        member.start()

    def stop(self) -> None:
        """End everything: roles, then Redis, then Kafka."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join()
        for old in self.replaced:
            old.signal(signal.SIGKILL, whole=True)
        for group in (self.names(), ["redis"], ["kafka"]):
            leashes = [m.leash for n in group if (m := self.members.get(n)) and m.leash is not None]
            for name in group:
                if name in self.members:
                    self.go_on(name)
            for leash in leashes:
                assert leash.stdin is not None
                leash.stdin.close()
            for leash in leashes:
                leash.wait(60)

    def stacks(self) -> None:
        """Let every role write its threads' stacks to its log and end."""
        for name in self.names():
            self.members[name].held = True
            self.members[name].signal(signal.SIGABRT)
            time.sleep(0.5)  # for what the worker writes
            self.hold(name)

    def tail(self, name: str, characters: int = 1_500) -> str:
        """Last lines of a member's log."""
        log = self.home / "logs" / f"{name}.log"
        return log.read_text(errors="replace")[-characters:] if log.exists() else ""
