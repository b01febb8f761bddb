"""From a kill to the next sign of work: what the groups have committed, and what the servers' logs say.

streams     every partition of `clicks` has a new committed offset
trainer     any partition of `samples` has one (a checkpoint was written)
publisher   any of its partitions has one
server      it answers from a version again ("event=serving" in its log)
kafka       all three groups moved on; redis: the publisher did
"""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from confluent_kafka import Consumer, KafkaException, TopicPartition

from contract import kafka
from contract.settings import Settings
from headrace.process import wait_until
from tests.faults.feeder import QUIET

POLL_S = 0.1
WATCHED = {"streams": ("clicks",), "trainer": ("samples",), "publisher": ("updates", "histories")}
SERVING = b"event=serving"

Place = tuple[str, str, int]  # role, logical topic, partition


class Waiting(NamedTuple):
    """A recovery that is not over."""

    role: str
    since: float
    is_over: Callable[[], bool]


class Recoveries:
    """A thread that looks at committed offsets ten times a second and measures what it is asked to."""

    def __init__(self, settings: Settings, partitions: int) -> None:
        self._settings = settings
        self._readers: dict[str, Consumer] = {}
        self._places = {
            role: [
                TopicPartition(settings.names.topic(topic), p)
                for topic in topics
                for p in range(1 if topic == "updates" else partitions)
            ]
            for role, topics in WATCHED.items()
        }
        self._offsets: dict[str, dict[tuple[str, int], int]] = {role: {} for role in WATCHED}
        self._moved: dict[str, dict[tuple[str, int], float]] = {role: {} for role in WATCHED}
        self._waiting: list[Waiting] = []
        self._ending, self._lock = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._run, name="recoveries")
        self.seconds: list[tuple[str, float]] = []  # (role, seconds), as they end
        self.progress: list[tuple[float, int]] = []  # (monotonic time, clicks committed by streams)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Stop looking."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join()

    def measure(self, role: str, since: float, log: Path | None = None, *, whole: bool = False) -> None:
        """Measure a recovery that began at `since`; of a server by what its log says from here on."""
        at = log.stat().st_size if log is not None and log.exists() else 0
        over = {
            "streams": lambda: self._all_moved("streams", since),
            "trainer": lambda: self._any_moved("trainer", since),
            "publisher": lambda: self._any_moved("publisher", since),
            "redis": lambda: self._any_moved("publisher", since),
            "kafka": lambda: self._all_moved("streams", since) and self._any_moved("publisher", since),
            "server": lambda: log is not None and SERVING in _since(log, at),
        }[role]
        with self._lock:
            self._waiting.append(Waiting(f"{role} and starter" if whole else role, since, over))

    def open(self) -> int:
        """Recoveries that are not over."""
        return len(self._waiting)

    def waiting(self) -> list[Waiting]:
        """Those."""
        return list(self._waiting)

    def catch_up(self, since: float, sent: Callable[[], int], live_per_s: float, timeout_s: float) -> float | None:
        """Wait until streams is within a second of what is sent; gives its clicks/s until then, from its first commit.

        None when there was nothing to catch up with, or it took longer than `timeout_s`.
        """
        behind = [(at, clicks) for at, clicks in self.progress if at < since]
        base = behind[-1][1] if behind else 0
        if not wait_until(lambda: self.progress[-1][1] > sent() - live_per_s, timeout_s):
            return None
        ended, clicks = self.progress[-1]
        begun = next(at for at, committed in self.progress if at >= since and committed > base)
        return (clicks - base) / (ended - begun) if ended > begun else None

    def _all_moved(self, role: str, since: float) -> bool:
        moved = self._moved[role]
        return all(moved.get((p.topic, p.partition), 0.0) > since + POLL_S for p in self._places[role])

    def _any_moved(self, role: str, since: float) -> bool:
        return any(at > since + POLL_S for at in self._moved[role].values())

    def _run(self) -> None:
        while not self._ending.wait(POLL_S):
            for role, places in self._places.items():
                self._look(role, places)
            now = time.monotonic()
            self.progress.append((now, sum(self._offsets["streams"].values())))
            with self._lock:
                over = [one for one in self._waiting if one.is_over()]
                self._waiting = [one for one in self._waiting if one not in over]
                self.seconds += [(one.role, now - one.since) for one in over]
        for reader in self._readers.values():
            reader.close()

    def _look(self, role: str, places: list[TopicPartition]) -> None:
        try:
            reader = self._readers.get(role)
            if reader is None:
                reader = kafka.consumer(self._settings.kafka, self._settings.names.group(role), logger=QUIET)
                self._readers[role] = reader
            found = reader.committed([TopicPartition(p.topic, p.partition) for p in places], timeout=1)
        except KafkaException:
            return
        now, offsets = time.monotonic(), self._offsets[role]
        for at in found:
            place = (at.topic, at.partition)
            if at.error is None and at.offset > offsets.get(place, -1):
                if place in offsets:
                    self._moved[role][place] = now
                offsets[place] = at.offset


def _since(log: Path, at: int) -> bytes:
    with log.open("rb") as file:
        file.seek(at)
        return file.read()
