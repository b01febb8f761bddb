"""`headrace replay --dlq`: dead letters go back to their raw topic after a fix, each once.

    <topic>.dlq ──(not yet re-sent: group `replay`)──> <topic>     one transaction: records and the DLQ's offsets

A record goes back under the key that the door judges by, its own user_id (item_id of `items`), so that what came
without a key, under a foreign one or to a wrong partition comes right; where it tells none, under the key it came with.
A re-sent record carries the header `headrace.replayed`; if it is refused again, its new dead letter carries it too and
is left alone. It is judged like any other event, so what is late by now is counted first: that is what a backfill into
a new namespace is for. Records of `items` and `users` are re-sent without a transaction (they only overwrite), so that
no transaction marker stands at the end of a topic that Faust reads.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, cast

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from contract import kafka
from contract.errors import BadInputError, UnreachableError
from contract.settings import Settings
from contract.topics import RAW_INPUTS
from streams import admin
from streams.metadata import decode as decode_metadata
from streams.sender import BATCH_BYTES, RECORD_OVERHEAD_BYTES, limit_bytes
from streams.verdicts import NEVER

REPLAYED = "headrace.replayed"
CUT = "headrace.cut.value"
OURS = ("__connect.errors.", "headrace.")
BATCH = 5_000
TIMEOUT_S = 30.0
UNKNOWN_MS = 1 << 62
Headers = list[tuple[str, bytes]]
Say = Callable[[str], object]


def _to_stderr(line: str) -> None:
    sys.stderr.write(f"headrace: {line}\n")


class Letter(NamedTuple):
    """A dead letter as it would be re-sent."""

    key: bytes | None
    value: bytes | None
    headers: Headers
    ts_ms: int  # event time; UNKNOWN_MS where it tells none

    @property
    def size_bytes(self) -> int:
        """What it takes in the raw topic at most, uncompressed."""
        held = sum(len(name) + len(value or b"") for name, value in self.headers)
        return len(self.key or b"") + len(self.value or b"") + held + RECORD_OVERHEAD_BYTES


class Plan(NamedTuple):
    """What a replay would do (or did), by reason of the dead letters."""

    topic: str
    resend: dict[str, int]
    late: dict[str, int]  # of those: how many would now be late
    cut: dict[str, int]  # the original is not whole, or too large for the raw topic by now: cannot be re-sent
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
            said += f"; {count['cut']} were cut when they were dead-lettered, or are too large, and cannot be re-sent"
        if count["replayed"]:
            said += f"; {count['replayed']} were re-sent before and refused again: left alone"
        return said


class _Letters:
    """Dead letters of one topic that no replay has dealt with, in batches; counts what they are."""

    def __init__(self, settings: Settings, topic: str, say: Say) -> None:
        self.counts: dict[str, Counter[str]] = {name: Counter() for name in ("resend", "late", "cut", "replayed")}
        self._settings, self._topic, self._say = settings, topic, say
        self._dlq, self._target = settings.names.topic(f"{topic}.dlq"), settings.names.topic(topic)
        self._latest_ms = _late_before(settings, topic)
        client = kafka.reach(settings.kafka)
        counts = kafka.partition_counts(client)
        if self._dlq not in counts:
            raise BadInputError(f"there is no {self._dlq} yet: nothing was ever refused, or streams never ran")
        self.limit_bytes, self._partitions = limit_bytes(client, self._target), counts[self._target]
        partitions = range(counts[self._dlq])
        at = [TopicPartition(self._dlq, p) for p in partitions]
        self.ends = {p: end for (_, p), end in kafka.end_offsets(client, at, committed=True).items()}
        found = kafka.committed(settings.kafka, settings.names.group("replay"), at)
        self.starts = {p.partition: max(p.offset, 0) for p in found}

    def batches(self, client: Consumer) -> Iterator[tuple[list[Letter], dict[int, int]]]:
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
            yield [letter for m in good if (letter := self._judge(m)) is not None], done
            at = {p: start for p, start in at.items() if upto[p] < self.ends[p]}

    def plan(self) -> Plan:
        """Everything counted so far."""
        return Plan(self._topic, **{name: dict(+counter) for name, counter in self.counts.items()})

    def _judge(self, message: Message) -> Letter | None:
        """Count a letter; give it back if it is to be re-sent."""
        said = dict(_headers(message))
        reason = said.get("__connect.errors.exception.class.name", b"unknown").decode("utf-8", "replace")
        if REPLAYED in said:
            self.counts["replayed"][reason] += 1
            return None
        if CUT in said or "headrace.cut.key" in said:
            self.counts["cut"][reason] += 1
            return None
        letter = _letter(self._topic, message)
        if letter.size_bytes > self.limit_bytes:
            self.counts["cut"][reason] += 1
            at = f"{self._dlq}-{self._of(message)}@{message.offset()}"
            limit = f"{self._target} takes at most {self.limit_bytes} (max.message.bytes)"
            self._say(f"{at} is not re-sent: it takes {letter.size_bytes} bytes and {limit}")
            return None
        self.counts["resend"][reason] += 1
        if letter.key is not None:
            home = kafka.partition_of(letter.key, self._partitions)
            self.counts["late"][reason] += letter.ts_ms < self._latest_ms.get(home, NEVER)
        return letter

    @staticmethod
    def _of(message: Message) -> int:
        return cast("int", message.partition())


def plan(settings: Settings, topic: str, say: Say = _to_stderr) -> Plan:
    """Count what `execute` would do now; touches nothing. Raises BadInputError for a topic without a DLQ."""
    letters = _Letters(settings, _raw(topic), say)
    client = _reader(settings)
    try:
        for _ in letters.batches(client):
            pass
    finally:
        client.close()
    return letters.plan()


def execute(settings: Settings, topic: str, say: Say = _to_stderr) -> Plan:
    """Re-send; what was dealt with is remembered with the records, so a crash re-sends nothing twice.

    Raises UnreachableError when Kafka does not take a record: its batch is not remembered as dealt with.
    """
    topic = _raw(topic)
    letters = _Letters(settings, topic, say)
    transactional = topic not in {"items", "users"}
    more: dict[str, Any] = {"batch.size": max(1, min(BATCH_BYTES, letters.limit_bytes - RECORD_OVERHEAD_BYTES))}
    if transactional:
        more["transactional.id"] = settings.names.transactional_id("replay")
    producer = kafka.producer(settings.kafka, **more)
    client = _reader(settings)
    send = _in_a_transaction if transactional else _acknowledged
    try:
        if transactional:
            producer.init_transactions(TIMEOUT_S)
            letters = _Letters(settings, topic, say)  # anew: a dead predecessor's transaction has ended only now
        for batch, done in letters.batches(client):
            offsets = [TopicPartition(settings.names.topic(f"{topic}.dlq"), p, offset) for p, offset in done.items()]
            send(producer, client, settings.names.topic(topic), batch, offsets)
    finally:
        client.close()
    return letters.plan()


def _in_a_transaction(
    producer: Producer, client: Consumer, topic: str, letters: list[Letter], offsets: list[TopicPartition]
) -> None:
    """Records and offsets appear together or not at all."""
    producer.begin_transaction()
    try:
        for letter in letters:
            kafka.produce(producer, topic, letter.value, letter.key, headers=letter.headers)
        producer.send_offsets_to_transaction(offsets, client.consumer_group_metadata(), TIMEOUT_S)
        producer.commit_transaction(TIMEOUT_S)
    except KafkaException as error:
        if error.args[0].txn_requires_abort():
            producer.abort_transaction(TIMEOUT_S)  # left open, it would hold up every reader of the raw topic
        raise


def _acknowledged(
    producer: Producer, client: Consumer, topic: str, letters: list[Letter], offsets: list[TopicPartition]
) -> None:
    """Offsets only once every record is acknowledged."""
    failed: list[KafkaError] = []

    def delivered(error: KafkaError | None, _: Message) -> None:
        if error is not None:
            failed.append(error)

    for letter in letters:
        kafka.produce(producer, topic, letter.value, letter.key, headers=letter.headers, on_delivery=delivered)
    left = producer.flush(TIMEOUT_S)
    if left or failed:
        producer.purge()
        cause = failed[0].str() if failed else f"no answer within {TIMEOUT_S:.0f} s"
        raise UnreachableError(
            f"{topic} did not take {left + len(failed)} of {len(letters)} dead letters ({cause}); they are still to be "
            "re-sent: the same command does it once Kafka is well"
        )
    client.commit(offsets=offsets, asynchronous=False)


def _letter(topic: str, message: Message) -> Letter:
    """Record that a dead letter of a raw topic becomes."""
    key, value = message.key(), message.value()
    told = _told(value)
    name = told.get("item_id" if topic == "items" else "user_id")
    if isinstance(name, str) and name:
        key = name.encode("utf-8", "replace")
    headers = [(header, said) for header, said in _headers(message) if not header.startswith(OURS)]
    return Letter(key, value, [*headers, (REPLAYED, b"1")], _ts_ms(told))


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
            times = ((_ts_ms(_told(m.value())), m.timestamp()[1] + skew_ms) for m in since)
            newest_ms = max((ts_ms for ts_ms, limit_ms in times if ts_ms <= limit_ms), default=NEVER)
            found[partition] = max(start.before_ms, newest_ms) - settings.join.lateness_ms
    return found


def _told(value: bytes | str | None) -> dict[str, Any]:
    """Fields of a raw message; none where it is no JSON object."""
    try:
        told = msgspec.json.decode(value or b"")
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}
    return told if isinstance(told, dict) else {}


def _ts_ms(told: dict[str, Any]) -> int:
    ts_ms = told.get("ts_ms")
    return ts_ms if isinstance(ts_ms, int) else UNKNOWN_MS


def _headers(message: Message) -> Headers:
    return cast("Headers", message.headers() or [])


def _reader(settings: Settings) -> Consumer:
    return kafka.consumer(settings.kafka, settings.names.group("replay"))


def _raw(topic: str) -> str:
    name = topic.removesuffix(".dlq")
    if name not in RAW_INPUTS:
        raise BadInputError(f"no dead letters of {topic!r}: wanted one of {', '.join(RAW_INPUTS)}")
    return name
