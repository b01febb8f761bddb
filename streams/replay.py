"""`headrace replay --dlq`: dead letters go back to their raw topic after a fix, each once.

    <topic>.dlq ──(not yet re-sent: group `replay`)──> <topic>     one transaction: records and the DLQ's offsets

A re-sent record carries the header `headrace.replayed`; if it is refused again, its new dead letter carries it too and
is left alone. It is judged like any other event, so what is late by now is counted first: that is what a backfill into
a new namespace is for. Records of `items` and `users` are re-sent without a transaction (they only overwrite), so that
no transaction marker stands at the end of a topic that Faust reads.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import msgspec
from confluent_kafka import Consumer, Message, Producer, TopicPartition

from contract import kafka
from contract.errors import BadInputError
from contract.settings import Settings
from contract.topics import RAW_INPUTS
from streams import admin
from streams.metadata import decode as decode_metadata
from streams.verdicts import NEVER

REPLAYED = "headrace.replayed"
CUT = "headrace.cut.value"
OURS = ("__connect.errors.", "headrace.")
BATCH = 5_000
TIMEOUT_S = 30.0


class Plan(NamedTuple):
    """What a replay would do (or did), by reason of the dead letters."""

    topic: str
    resend: dict[str, int]
    late: dict[str, int]  # of those: how many would now be late
    cut: dict[str, int]  # the original is not whole: cannot be re-sent
    replayed: dict[str, int]  # came from a replay already: left alone

    @property
    def text(self) -> str:
        """One line for a person."""
        count = {name: sum(cast("dict[str, int]", getattr(self, name)).values()) for name in self._fields[1:]}
        said = f"{count['resend']} dead letters of {self.topic} to re-send"
        if count["late"]:
            said += (
                f"; {count['late']} of them are older than their partition's event time allows and would be refused "
                f"as late: a backfill takes them in order (headrace replay --as NAME --execute)"
            )
        if count["cut"]:
            said += f"; {count['cut']} were cut when they were dead-lettered and cannot be re-sent"
        if count["replayed"]:
            said += f"; {count['replayed']} were re-sent before and refused again: left alone"
        return said


class _Letters:
    """Dead letters of one topic that no replay has dealt with, in batches; counts what they are."""

    def __init__(self, settings: Settings, topic: str) -> None:
        self.counts: dict[str, Counter[str]] = {name: Counter() for name in ("resend", "late", "cut", "replayed")}
        self._settings, self._topic = settings, topic
        self._dlq = settings.names.topic(f"{topic}.dlq")
        self._latest_ms = _late_before(settings, topic)
        client = kafka.reach(settings.kafka)
        counts = kafka.partition_counts(client)
        if self._dlq not in counts:
            raise BadInputError(f"there is no {self._dlq} yet: nothing was ever refused, or streams never ran")
        partitions = range(counts[self._dlq])
        at = [TopicPartition(self._dlq, p) for p in partitions]
        self.ends = {p: end for (_, p), end in kafka.end_offsets(client, at, committed=True).items()}
        found = kafka.committed(settings.kafka, settings.names.group("replay"), at)
        self.starts = {p.partition: max(p.offset, 0) for p in found}

    def batches(self, client: Consumer) -> Iterator[tuple[list[Message], dict[int, int]]]:
        """Letters to re-send and, by partition, the offset up to which that batch deals with the DLQ."""
        at = {p: start for p, start in self.starts.items() if start < self.ends[p]}
        client.assign([TopicPartition(self._dlq, p, start) for p, start in at.items()])
        while at:
            messages = client.consume(BATCH, 0.5)
            ended = {self._of(m): cast("int", m.offset()) for m in messages if kafka.is_end(m)}
            good = [m for m in messages if m.error() is None and cast("int", m.offset()) < self.ends[self._of(m)]]
            upto = {p.partition: p.offset for p in client.position([TopicPartition(self._dlq, p) for p in at])}
            upto |= ended
            done = {p: min(offset, self.ends[p]) for p, offset in upto.items() if offset >= 0}
            yield [m for m in good if self._judge(m)], done
            at = {p: start for p, start in at.items() if upto[p] < self.ends[p]}

    def plan(self) -> Plan:
        """Everything counted so far."""
        return Plan(self._topic, **{name: dict(counter) for name, counter in self.counts.items()})

    def _judge(self, message: Message) -> bool:
        said = _headers(message)
        reason = said.get("__connect.errors.exception.class.name", b"unknown").decode("utf-8", "replace")
        if REPLAYED in said:
            self.counts["replayed"][reason] += 1
            return False
        if CUT in said or "headrace.cut.key" in said:
            self.counts["cut"][reason] += 1
            return False
        self.counts["resend"][reason] += 1
        if _ts_ms(message) < self._latest_ms.get(self._of(message), NEVER):
            self.counts["late"][reason] += 1
        return True

    @staticmethod
    def _of(message: Message) -> int:
        return cast("int", message.partition())


def plan(settings: Settings, topic: str) -> Plan:
    """Count what `execute` would do now; touches nothing. Raises BadInputError for a topic without a DLQ."""
    letters = _Letters(settings, _raw(topic))
    client = _reader(settings)
    try:
        for _ in letters.batches(client):
            pass
    finally:
        client.close()
    return letters.plan()


def execute(settings: Settings, topic: str) -> Plan:
    """Re-send; what was dealt with is remembered with the records, so a crash re-sends nothing twice."""
    topic = _raw(topic)
    letters = _Letters(settings, topic)
    transactional = topic not in {"items", "users"}
    more: dict[str, Any] = {"transactional.id": settings.names.transactional_id("replay")} if transactional else {}
    producer = kafka.producer(settings.kafka, **more)
    client = _reader(settings)
    try:
        if transactional:
            producer.init_transactions(TIMEOUT_S)
            letters = _Letters(settings, topic)  # anew: a dead predecessor's transaction has ended only now
        for messages, done in letters.batches(client):
            offsets = [TopicPartition(settings.names.topic(f"{topic}.dlq"), p, offset) for p, offset in done.items()]
            if transactional:
                producer.begin_transaction()
            _send(producer, settings.names.topic(topic), messages)
            if transactional:
                producer.send_offsets_to_transaction(offsets, client.consumer_group_metadata(), TIMEOUT_S)
                producer.commit_transaction(TIMEOUT_S)
            else:
                producer.flush(TIMEOUT_S)
                client.commit(offsets=offsets, asynchronous=False)
    finally:
        client.close()
    return letters.plan()


def _send(producer: Producer, topic: str, messages: list[Message]) -> None:
    """To the partition that the key hashes to: a record on a wrong partition comes right."""
    for message in messages:
        headers = [(name, value) for name, value in _headers(message).items() if not name.startswith(OURS)]
        key, value = message.key(), message.value()
        kafka.produce(producer, topic, value, key, headers=[*headers, (REPLAYED, b"1")])


def _late_before(settings: Settings, topic: str) -> dict[int, int]:
    """By partition the event time below which an event is late now: M_x - lateness.

    M_x is the committed metadata's (before the oldest offset still needed) and that of the records since.
    """
    if topic not in admin.joined_inputs(settings):
        return {}
    found, skew_ms = {}, settings.join.max_skew_ms
    for (_, partition), at in admin.committed(settings, (topic,)).items():
        if at.metadata:
            start = decode_metadata(at.metadata)
            since = kafka.read_to_end(settings.kafka, at.topic, [partition], start=start.oldest)
            times = (_ts_ms(m) for m in since if _ts_ms(m) <= m.timestamp()[1] + skew_ms)
            found[partition] = max(start.before_ms, max(times, default=NEVER)) - settings.join.lateness_ms
    return found


def _ts_ms(message: Message) -> int:
    try:
        ts_ms = msgspec.json.decode(message.value() or b"").get("ts_ms")
    except (msgspec.DecodeError, AttributeError, UnicodeDecodeError):
        return 1 << 62
    return ts_ms if isinstance(ts_ms, int) else 1 << 62


def _headers(message: Message) -> dict[str, bytes]:
    return dict(cast("list[tuple[str, bytes]]", message.headers() or []))


def _reader(settings: Settings) -> Consumer:
    return kafka.consumer(settings.kafka, settings.names.group("replay"))


def _raw(topic: str) -> str:
    name = topic.removesuffix(".dlq")
    if name not in RAW_INPUTS:
        raise BadInputError(f"no dead letters of {topic!r}: wanted one of {', '.join(RAW_INPUTS)}")
    return name
