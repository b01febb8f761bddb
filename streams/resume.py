"""How far a named replay came, read back from the ends of the raw topics.

Every record of a named replay carries its line in a header. Within a partition lines only grow, so the last one found
there tells which of the lines that belong to that partition are in.
"""

from typing import Self, cast

from confluent_kafka import TopicPartition

from contract.kafka import consumer, partition_counts, partition_of, reach, read_to_end
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
        counts = partition_counts(reach(settings.kafka))
        physical = {topic: settings.names.topic(topic) for topic in topics}
        last = {
            topic: [_last_line(settings.kafka, at, partition, name) for partition in range(counts[at])]
            for topic, at in physical.items()
        }
        return cls(name, last)

    def has(self, topic: str, key: bytes, line: int) -> bool:
        """Whether this line is in already."""
        last = self._last[topic]
        return line <= max(last) and line <= last[partition_of(key, len(last))]

    def mark(self, line: int) -> bytes:
        """Value of the header of this line's record."""
        return f"{self._name}/{line}".encode()


def _last_line(kafka: Kafka, topic: str, partition: int, name: str) -> int:
    reader = consumer(kafka, "headrace-read")
    try:
        low, high = cast("tuple[int, int]", reader.get_watermark_offsets(TopicPartition(topic, partition), 10))
    finally:
        reader.close()
    stop, block = high, FIRST_BLOCK
    while stop > low:
        start = max(low, stop - block)
        found = 0
        for message in read_to_end(kafka, topic, [partition], start=start):
            if cast("int", message.offset()) >= stop:
                break
            for header, value in cast("list[tuple[str, bytes]]", message.headers() or []):
                at, _, line = value.decode("utf-8", "replace").rpartition("/") if header == HEADER else ("", "", "")
                found = int(line) if header == HEADER and at == name and line.isdecimal() else found
        if found:
            return found
        stop, block = start, block * 4
    return 0
