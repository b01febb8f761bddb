"""One instant of the streams role: how far it has read and written, and the records up to there."""

import time
from collections.abc import Callable, Iterator
from typing import cast

from confluent_kafka import Message, TopicPartition

from contract.errors import RefusedError
from contract.kafka import committed, end_offsets, partition_counts, reach, read_to_end, start_offsets
from contract.settings import Settings

Progress = Callable[[int, int], object]
SOURCES = ("exposures", "clicks", "ranking-drops")
LETTERS = tuple(f"{source}.dlq" for source in SOURCES)
DERIVED = ("samples", "outcomes", "histories", "popularity", "profiles", *LETTERS)
WHOLE = (*SOURCES, "samples", "outcomes", *LETTERS)  # logs that must still begin at their beginning
QUIET_S = 0.1
PATIENCE_S = 30.0
STEP_RECORDS = 1_000
Look = tuple[dict[tuple[str, int], tuple[int, str]], dict[tuple[str, int], int]]


class Snapshot:
    """Ends of all inputs (committed offsets) and outputs, between two transactions; reads up to them."""

    def __init__(self, settings: Settings, progress: Progress) -> None:
        self._kafka, self._names, self._progress = settings.kafka, settings.names, progress
        self._admin = reach(settings.kafka)  # kept: its calls end with it
        self.partitions = self._count_partitions()
        self._refuse_cut_logs()
        self._ends = self._stand_still()
        self._done, self._total = 0, sum(self._ends.values())

    def end(self, topic: str, partition: int) -> int:
        """Offset below which a partition of a topic belongs to this instant."""
        return self._ends[self._names.topic(topic), partition]

    def read(self, topic: str) -> Iterator[tuple[int, Message]]:
        """(partition, record) of everything on a topic, in order within each partition."""
        below = {p: self.end(topic, p) for p in range(self.partitions)}
        before = self._done
        if any(below.values()):
            for message in read_to_end(self._kafka, self._names.topic(topic), list(below), below=below):
                self._done += 1
                if self._done % STEP_RECORDS == 0:
                    self._progress(self._done, self._total)
                yield cast("int", message.partition()), message
        self._done = before + sum(below.values())  # markers and aborted records take offsets, too
        self._progress(self._done, self._total)

    def _count_partitions(self) -> int:
        counts = partition_counts(self._admin)
        for topic in (*SOURCES, *DERIVED):
            if (name := self._names.topic(topic)) not in counts:
                raise RefusedError(f"nothing to audit in namespace {self._names.namespace}: there is no topic {name}")
        return counts[self._names.topic("clicks")]

    def _places(self, *topics: str) -> list[TopicPartition]:
        return [TopicPartition(self._names.topic(topic), p) for topic in topics for p in range(self.partitions)]

    def _refuse_cut_logs(self) -> None:
        for (topic, partition), first in start_offsets(self._admin, self._places(*WHOLE)).items():
            if first > 0:
                raise RefusedError(
                    f"{topic}-{partition} begins at offset {first}: retention has taken what the audit would "
                    "read; audit a namespace that was started on what is left (`headrace replay --as NAME`)"
                )

    def _stand_still(self) -> dict[tuple[str, int], int]:
        """Look until committed offsets and ends did not move for a moment: then no transaction lies between them."""
        deadline_s, last = time.monotonic() + PATIENCE_S, self._look()
        while True:
            time.sleep(QUIET_S)
            now = self._look()
            if now == last:
                break
            if time.monotonic() > deadline_s:
                raise RefusedError("streams commits without a pause: stop the producers, or audit when lag is 0")
            last = now
        inputs, ends = last
        return {place: max(0, offset) for place, (offset, _) in inputs.items()} | ends

    def _look(self) -> Look:
        inputs = committed(self._kafka, self._names.group("streams"), self._places(*SOURCES))
        ends = end_offsets(self._admin, self._places(*DERIVED), committed=True)
        return {(c.topic, c.partition): (c.offset, c.metadata or "") for c in inputs}, ends
