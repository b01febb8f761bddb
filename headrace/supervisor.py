"""The detached supervisor of `headrace up`: `python -m headrace.supervisor DATA_DIR` runs what plan.json says.

1. take the lock of the data directory, so that there is only one
2. start Kafka and Redis; when their ports answer, the roles
3. start what ended again, after an exponential back-off; keep logs bounded; write stack.json at each change
4. on SIGTERM, or when its data directory is gone: stop the roles, then Redis, then Kafka

Every child carries the stack's id in its environment. Should this process be killed, the next `up` or `down` finds
them by it.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil

from headrace import backoff, ports, stack
from headrace.process import STACK_VARIABLE, identify, spawn, stop, worker_of
from headrace.stack import Plan, ProcessRecord, Record, Service

TICK_S = 0.1
LOG_MAX_BYTES = 20_000_000
LOG_CHECK_TICKS = 50


class Child:
    """A supervised process: what it is, and how it fares."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.record = ProcessRecord()
        self.process: subprocess.Popen[bytes] | None = None
        self.answered = service.port is None
        self.failures = 0
        self.started = 0.0
        self.next_start = 0.0

    def start(self, log: Path, stack_id: str, cwd: Path, now: float) -> None:
        """Start it."""
        self.process = spawn(self.service.command, log, {STACK_VARIABLE: stack_id}, cwd)
        identity = identify(self.process.pid)
        self.record.pid, self.record.created = self.process.pid, identity.created if identity else 0.0
        self.record.state, self.record.started_ms = "running", time.time_ns() // 1_000_000
        self.record.restarts += self.failures > 0 or self.record.last_exit is not None
        self.started = now

    def look(self) -> bool:
        """Whether the role's starter has forked a worker; each after the first is a restart."""
        if self.process is None or self.service.name not in stack.ROLES:
            return False
        worker = worker_of(self.process.pid, self.record.worker)
        if worker is None or worker == self.record.worker:
            return False
        self.record.restarts += self.record.worker is not None
        self.record.worker = worker
        return True

    def reap(self, now: float) -> bool:
        """Note its end, if it ended, and when to start it again."""
        if self.process is None or self.process.poll() is None:
            return False
        self.record.state, self.record.last_exit = "backing-off", self.process.returncode
        self.failures = backoff.failures_after(self.failures, now - self.started)
        self.next_start = now + backoff.delay_s(self.failures)
        self.process = self.record.worker = None
        return True


class Supervisor:
    """Keeps the processes of a plan alive until it is told to stop."""

    def __init__(self, home: Path, plan: Plan) -> None:
        self.home, self.plan = home, plan
        self.children = [Child(service) for service in plan.services]
        self.stopping = threading.Event()

    def run(self) -> None:
        """Supervise until SIGTERM, SIGINT, or until the data directory is gone."""
        with stack.supervising(self.home, patience_s=2):
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: self.stopping.set())
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            try:
                self.write()
                ticks = 0
                while not self.stopping.wait(TICK_S):
                    self.tick(time.monotonic())
                    ticks += 1
                    if ticks % LOG_CHECK_TICKS == 0:
                        self.bound_logs()
                        if not (self.home / "stack.json").exists():
                            break
            finally:
                self.stop()

    def tick(self, now: float) -> None:
        """Reap what ended, start what is due, see whose port answers."""
        changed = False
        for child in self.children:
            changed |= child.reap(now)
            changed |= child.look()
            if child.process is None and now >= child.next_start and self.is_turn(child):
                child.start(self.log(child), self.plan.stack_id, Path(self.plan.cwd), now)
                changed = True
            if not child.answered and child.process and child.service.port:
                child.answered = ports.answers(child.service.port, child.service.host)
        if changed:
            self.write()

    def is_turn(self, child: Child) -> bool:
        """Whether everything of the earlier stages has answered."""
        return all(other.answered for other in self.children if other.service.stage < child.service.stage)

    def log(self, child: Child) -> Path:
        """Log file of a process."""
        return self.home / "logs" / f"{child.service.name}.log"

    def bound_logs(self) -> None:
        """Move a log that grew too long aside, replacing the one before; its writer appends on, from zero."""
        for log in (self.home / "logs" / "supervisor.log", *map(self.log, self.children)):
            with contextlib.suppress(OSError):
                if log.stat().st_size > LOG_MAX_BYTES:
                    log.with_suffix(".log.1").write_bytes(log.read_bytes())
                    os.truncate(log, 0)

    def write(self) -> None:
        """Write stack.json."""
        me = identify(os.getpid())
        processes = {child.service.name: child.record for child in self.children}
        plan, pid = self.plan, me and (me.pid, me.created)
        record = Record(plan.stack_id, pid, plan.settings, plan.ports, processes, plan.secrets)
        if self.home.exists():
            stack.write_record(self.home, record)

    def stop(self) -> None:
        """Stop everything in order: later stages first, and of the servers Redis before Kafka."""
        order = sorted(self.children, key=lambda c: (-c.service.stage, c.service.name == "kafka"))
        roles = [c for c in order if c.service.name not in stack.SERVERS]
        for group in (roles, *([c] for c in order if c.service.name in stack.SERVERS)):
            grace_s = stack.ROLE_GRACE_S if group is roles else stack.SERVER_GRACE_S
            stop([psutil.Process(c.process.pid) for c in group if c.process and c.process.poll() is None], grace_s)
            for child in group:
                if child.process is not None:
                    child.record.last_exit = child.process.wait()
                child.record.state, child.record.pid, child.record.worker, child.process = "stopped", None, None, None
        self.plan.settings.clear()  # addresses of servers that are gone mislead; the ports stay for the next time
        self.plan.secrets.clear()
        with contextlib.suppress(OSError):
            self.write()


def main() -> None:
    """Supervise the plan of the data directory named on the command line."""
    home = Path(sys.argv[1])
    Supervisor(home, stack.read_plan(home)).run()


if __name__ == "__main__":
    main()
