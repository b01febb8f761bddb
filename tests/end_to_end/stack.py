"""All roles as real processes on one set of settings, for tests that look at the whole loop from outside."""

import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil

from contract.kafka import create_topics, partition_of, produce, producer
from contract.messages import Click, Exposure, Item, encode_json
from contract.redis import connect
from contract.settings import Settings, environment_of
from publisher.store import read_status

HEADRACE = str(Path(sys.executable).parent / "headrace")
ROLES = ("streams", "trainer", "publisher", "server")


class Stack:
    """Roles of one namespace; each on a leash, so that a killed test run leaves none behind."""

    def __init__(self, settings: Settings, logs: Path) -> None:
        self.settings = settings
        self.logs = logs
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._environment = {**os.environ, **environment_of(settings)}

    def start(self, *roles: str) -> None:
        """Start roles (all by default) that do not run."""
        for role in roles or ROLES:
            with (self.logs / f"{role}.log").open("ab") as log:
                self._running[role] = subprocess.Popen(
                    [sys.executable, "-m", "headrace.leash", HEADRACE, "run", role],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=self._environment,
                    start_new_session=True,
                )

    def kill(self, role: str) -> None:
        """Kill -9 the role itself; its leash ends with it."""
        leash = self._running.pop(role)
        for child in psutil.Process(leash.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        leash.wait(30)

    def stop(self) -> None:
        """End every role and wait."""
        for leash in self._running.values():
            if leash.stdin is not None:
                leash.stdin.close()
        for leash in self._running.values():
            leash.wait(60)
        self._running.clear()

    def command(self, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run a `headrace` command under the same settings."""
        return subprocess.run(
            [HEADRACE, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            env=self._environment,
            timeout=120,
            check=False,
        )

    def answer(self, *arguments: str) -> Any:
        """JSON that a command prints; fails with its output when it exits non-zero."""
        done = self.command(*arguments)
        assert done.returncode == 0, f"headrace {' '.join(arguments)}: {done.stdout}{done.stderr}{self.tail()}"
        return json.loads(done.stdout)

    def lines(self, *arguments: str) -> list[Any]:
        """JSON documents that a command prints, one a line."""
        done = self.command(*arguments)
        assert done.returncode == 0, f"headrace {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return [json.loads(line) for line in done.stdout.splitlines()]

    def partition_of(self, user: str) -> int:
        """Partition of a user's events."""
        return partition_of(user.encode(), self.settings.kafka.partitions)

    def get(self, path: str) -> Any:
        """JSON of the recall server's answer."""
        url = f"http://127.0.0.1:{self.settings.server.port}{path}"
        with urllib.request.urlopen(url, timeout=5) as answer:
            return json.load(answer)

    def learned(self) -> int:
        """Samples that the served model has learned, rows in Redis and items in the server alike."""
        found = read_status(connect(self.settings.redis), self.settings.names)
        with contextlib.suppress(OSError):
            return min(int(found.get("samples", 0)), int(self.get("/version").get("samples", 0)))
        return 0

    def send(self, events: Iterable[Exposure | Click | Item]) -> int:
        """Produce raw events in this order; how many."""
        names = self.settings.names
        create_topics(self.settings)
        target = producer(self.settings.kafka)
        count = 0
        for event in events:
            match event:
                case Exposure():
                    topic, key = "exposures", event.user_id
                case Click():
                    topic, key = "clicks", event.user_id
                case Item():
                    topic, key = "items", event.item_id
            produce(target, names.topic(topic), encode_json(event), key.encode())
            count += 1
        assert target.flush(30) == 0
        return count

    def until(self, what: str, condition: Callable[[], bool], timeout_s: float = 60.0) -> float:
        """Wait for a condition; seconds it took. Fails with the roles' last lines."""
        begun = time.monotonic()
        while True:
            with contextlib.suppress(OSError, msgspec.DecodeError):
                if condition():
                    return time.monotonic() - begun
            assert time.monotonic() - begun < timeout_s, f"{what}: not within {timeout_s} s{self.tail()}"
            time.sleep(0.2)

    def tail(self) -> str:
        """Last lines of every role's log."""
        texts = [
            f"\n--- {path.stem}\n{path.read_text(errors='replace')[-1500:]}" for path in sorted(self.logs.glob("*.log"))
        ]
        return "".join(texts)


@contextlib.contextmanager
def running(settings: Settings, logs: Path) -> Iterator[Stack]:
    """All roles until the block ends."""
    stack = Stack(settings, logs)
    stack.start()
    try:
        yield stack
    finally:
        stack.stop()
