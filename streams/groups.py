"""Where every consumer group of a namespace is: reads offsets and the first unread records from the cluster."""

import time
from typing import cast

from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from contract import kafka as edge
from contract.settings import Kafka, Settings
from contract.topics import TOPICS
from streams.lag import Observed, Row, row

COUNTED_RECORDS = 1_000  # up to so many offsets are counted record by record, beyond that markers hardly matter
PATIENCE_S = 5.0
Place = tuple[str, int]

# What each group reads whether or not it has committed yet; what else it committed is found in the cluster.
READS = {
    "streams": ("exposures", "clicks", "ranking-drops"),
    "streams-check": ("items", "users"),
    "trainer": ("samples",),
    "publisher": ("updates",),
}


def lag(settings: Settings, client: AdminClient | None = None, patience_s: float = PATIENCE_S) -> list[Row]:
    """Rows of all groups of the namespace, by group, topic and partition.

    Raises UnreachableError when the broker does not answer in time, or a group's coordinator not in `patience_s`.
    """
    client = client or edge.reach(settings.kafka)
    counts = edge.partition_counts(client)
    observed = [one for group in READS for one in _observe(settings, client, group, counts, patience_s)]
    now_ms = time.time_ns() // 1_000_000
    return [row(one, now_ms) for one in observed]


def _observe(
    settings: Settings, client: AdminClient, role: str, counts: dict[str, int], patience_s: float
) -> list[Observed]:
    group = settings.names.group(role)
    committed = _committed(settings, group, counts, patience_s)
    expected = READS[role][1:2] if role == "streams" and settings.join.mode == "clicks-only" else READS[role]
    topics = {settings.names.topic(t) for t in expected} | {topic for topic, _ in committed}
    places = [(topic, p) for topic in sorted(topics) for p in range(counts.get(topic, 0))]
    ends = edge.end_offsets(client, [TopicPartition(*place) for place in places], committed=True)
    starts = edge.start_offsets(client, [TopicPartition(*place) for place in places])
    behind = {at: max(committed.get(at, 0), starts[at]) for at in places}
    behind = {at: offset for at, offset in behind.items() if offset < ends[at]}
    unread = _unread(settings.kafka, behind, ends, patience_s)
    return [
        Observed(group, *at, committed.get(at), starts[at], ends[at], *unread.get(at, (None, None, None)))
        for at in places
    ]


def _committed(settings: Settings, group: str, counts: dict[str, int], patience_s: float) -> dict[Place, int]:
    """Committed offsets of a group on any topic of the namespace; no open transaction is waited for."""
    names = [settings.names.topic(topic.name) for topic in TOPICS]
    places = [TopicPartition(name, p) for name in names for p in range(counts.get(name, 0))]
    found = edge.committed(settings.kafka, group, places, patience_s, stable=False)
    return {(p.topic, p.partition): p.offset for p in found if p.offset >= 0}


def _unread(
    kafka: Kafka, behind: dict[Place, int], ends: dict[Place, int], patience_s: float
) -> dict[Place, tuple[int, int, int | None]]:
    """Offset and arrival of the first unread record of each partition, and how many there are where they are few."""
    found: dict[Place, tuple[int, int, int | None]] = {}
    if not behind:
        return found
    reader = edge.consumer(kafka, "headrace-lag", **{"queued.min.messages": 1, "fetch.message.max.bytes": 65_536})
    try:
        waiting = dict(behind)
        reader.assign([TopicPartition(*at, offset) for at, offset in behind.items()])
        until = time.monotonic() + patience_s
        while waiting and time.monotonic() < until:
            for message in reader.consume(COUNTED_RECORDS, 0.1):
                at = (cast("str", message.topic()), cast("int", message.partition()))
                if at not in waiting:
                    continue
                error = message.error()
                if error is not None:
                    if error.code() != edge.END_OF_PARTITION:
                        raise KafkaException(error)
                    del waiting[at]
                elif cast("int", message.offset()) < ends[at]:
                    few = ends[at] - behind[at] <= COUNTED_RECORDS
                    first = found.get(at, (cast("int", message.offset()), message.timestamp()[1], 0))
                    found[at] = (first[0], first[1], first[2] + 1 if few and first[2] is not None else None)
                    if not few:
                        del waiting[at]
                        reader.pause([TopicPartition(*at)])
        for at in waiting.keys() - found.keys():  # gave no answer in time: say what the offsets say
            found[at] = (behind[at], 0, None)
    finally:
        reader.close()
    return found
