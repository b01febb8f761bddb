"""The example is replayed once in the life of a Kafka, whatever dies in between.

example.json says where the raw topics ended when the replay began. A replay that was cut short is finished: what the
topics already hold from there on is read back, and left out, record by record. Nothing is produced twice, whoever else
writes at the same time.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

from confluent_kafka import TopicPartition

from contract import kafka as edge
from contract.settings import Settings
from headrace import stack

TOPICS = ("items", "users", "exposures", "clicks", "ranking-drops")
Skip = Callable[[str, bytes], bool]


def replay_once(settings: Settings, directory: Path, speed: float, say: Callable[[str], None]) -> bool:
    """Replay a directory of events into the raw topics unless that was done; True if there was something to do."""
    mark = settings.data_dir / "example.json"
    edge.create_topics(settings)
    places = list(_places(settings))
    ends = edge.end_offsets(edge.admin(settings.kafka), places, committed=True)
    known = stack.read_json(mark) or {}
    if known.get("state") == "done" and sum(ends.values()) > 0:
        return False
    starts = known.get("starts", {}) if sum(ends.values()) > 0 else {}
    if not starts:
        starts = {f"{p.topic}/{p.partition}": ends[p.topic, p.partition] for p in places}
        stack.write_json(mark, {"state": "replaying", "directory": str(directory), "starts": starts})
    skip = already_there(settings, places, starts)
    produced = replay(settings, directory, speed, skip)
    stack.write_json(mark, {"state": "done", "directory": str(directory), "events": produced})
    say(f"replayed {produced:,} events of {directory.name}")
    return True


def _places(settings: Settings) -> Iterator[TopicPartition]:
    counts = edge.partition_counts(edge.admin(settings.kafka))
    for topic in TOPICS:
        name = settings.names.topic(topic)
        yield from (TopicPartition(name, p) for p in range(counts[name]))


def already_there(settings: Settings, places: list[TopicPartition], starts: dict[str, int]) -> Skip:
    """Say of each record, by topic and value, whether an earlier replay wrote it; each is spoken for once."""
    written: Counter[bytes] = Counter()
    for place in places:
        start = starts.get(f"{place.topic}/{place.partition}", 0)
        for message in edge.read_to_end(settings.kafka, place.topic, [place.partition], start=start):
            written[_digest(place.topic, message.value() or b"")] += 1

    def skip(topic: str, value: bytes) -> bool:
        digest = _digest(topic, value)
        if not written[digest]:
            return False
        written[digest] -= 1
        return True

    return skip


def _digest(topic: str, value: bytes) -> bytes:
    return hashlib.blake2b(topic.encode() + b"\n" + value, digest_size=16).digest()
