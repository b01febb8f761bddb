"""How far a named replay came, read back from the ends of the raw topics.

Every record of a named replay carries its line in a header. Within a partition lines only grow, so the last one found
there tells which of the lines that belong to that partition are in.
"""

from typing import Self, cast

from confluent_kafka import Message, TopicPartition

from contract.kafka import end_offsets, partition_counts, partition_of, reach, read_to_end
from contract.settings import Kafka, Settings

HEADER = "headrace.replay"
FIRST_BLOCK = 1_000  # records looked at first; each further look back is four times as long


class Resume:
    """Last line in Kafka by topic and partition; 0 where there is none."""

    def __init__(self, name: str, last: dict[str, list[int]]) -> None:
        self._name = name
        self._last = last

    @classmethod
    def read_back(cls, settings: Settings, topics: list[str], name: str) -> Self:
        """Look for the last record of this replay in every partition of some topics."""
        client = reach(settings.kafka)
        counts = partition_counts(client)
        last: dict[str, list[int]] = {}
        for topic in topics:
            at = settings.names.topic(topic)
            ends = end_offsets(client, [TopicPartition(at, p) for p in range(counts[at])])
            last[topic] = [_last_line(settings.kafka, at, p, ends[at, p], name) for p in range(counts[at])]
        return cls(name, last)

    def has(self, topic: str, key: bytes, line: int) -> bool:
        """Whether this line is in already."""
        last = self._last[topic]
        return line <= max(last) and line <= last[partition_of(key, len(last))]

    def mark(self, line: int) -> bytes:
        """Value of the header of this line's record."""
        return f"{self._name}/{line}".encode()


def _last_line(kafka: Kafka, topic: str, partition: int, end: int, name: str) -> int:
    """Look back block by block; offsets that retention has taken read as the first that is left."""
    stop, block = end, FIRST_BLOCK
    while stop > 0:
        start, found = max(0, stop - block), 0
        for message in read_to_end(kafka, topic, [partition], start=start):
            if cast("int", message.offset()) >= stop:
                break
            found = _line_of(message, name) or found
        if found:
            return found
        stop, block = start, block * 4
    return 0


def _line_of(message: Message, name: str) -> int:
    for header, value in cast("list[tuple[str, bytes]]", message.headers() or []):
        if header == HEADER:
            at, _, line = value.decode("utf-8", "replace").rpartition("/")
            if at == name and line.isdecimal():
                return int(line)
    return 0
