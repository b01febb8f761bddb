"""One worker's transactions: records and offsets appear together or not at all. Source: KIP-98, KIP-360, KIP-447."""

import time
from collections.abc import Callable, Iterable
from threading import Event
from typing import Any, NamedTuple

import msgspec
from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from contract import crash, kafka, log
from contract.messages import HardNegatives
from contract.settings import Settings
from streams import metrics
from streams.deadline import Deadline
from streams.fenced import FENCED, is_fatal
from streams.join import Batch

MAX_ABORTS = 5  # in a row: something stands that another try does not move
BROKER_S = 30.0
RETRY_S = 0.1
GRACE_S = 2.0

encode = msgspec.msgpack.Encoder().encode  # as contract.messages.encode, without a call around the call
Row = tuple[bytes | None, bytes | None]  # value, key


class AbortedError(Exception):
    """The transaction was aborted: nothing of it happened, the state in memory is ahead of it and must go."""


class Letter(NamedTuple):
    """A record for the DLQ of `source`."""

    source: str
    reason: str
    text: str
    message: Message


class Part(NamedTuple):
    """What one partition puts into a transaction."""

    batch: Batch
    drops: list[HardNegatives]
    letters: list[Letter]


class Transactions:
    """The transactional producer of a slot; its fixed id fences whoever had the slot before."""

    def __init__(self, settings: Settings, slot: int, ending: Event) -> None:
        self._topic, self._ending, self._aborts = settings.names.topic, ending, 0
        more: dict[str, Any] = {
            "transactional.id": settings.names.transactional_id("streams", slot),
            "transaction.timeout.ms": settings.streams.transaction_timeout_ms,
            "linger.ms": 20,
            "queue.buffering.max.messages": 1_000_000,
            "queue.buffering.max.kbytes": 262_144,
        }
        self._producer = kafka.producer(settings.kafka, **more)
        self._deadline = Deadline("transaction", settings.streams.transaction_timeout_ms / 1000 + GRACE_S)

    def open(self) -> None:
        """Fence and end what a dead predecessor left open; waits for Kafka."""
        self._patiently(self._producer.init_transactions, BROKER_S)

    def commit(self, consumer: Consumer, parts: dict[int, Part], offsets: list[TopicPartition]) -> int:
        """Write everything in one transaction; give back the number of records.

        1. produce, always to the input's own partition number
        2. offsets with their metadata, under the consumer's generation: a zombie is refused here
        3. commit
        Raises AbortedError when nothing of it happened; KafkaException when this producer is finished. Ends the
        process when it takes longer than the broker lets a transaction live.
        """
        with self._deadline:
            return self._commit(consumer, parts, offsets)

    def _commit(self, consumer: Consumer, parts: dict[int, Part], offsets: list[TopicPartition]) -> int:
        started_s = time.monotonic()
        try:
            self._producer.begin_transaction()
            records = sum(self._write(partition, part) for partition, part in parts.items())  # 1
            crash.point("streams.before_offsets")
            group = consumer.consumer_group_metadata()
            self._patiently(self._producer.send_offsets_to_transaction, offsets, group, BROKER_S)  # 2
            crash.point("streams.before_commit")
            self._patiently(self._producer.commit_transaction, BROKER_S)  # 3
            crash.point("streams.after_commit")
        except KafkaException as error:
            self._abort(error)
        self._aborts = 0
        metrics.TRANSACTIONS.labels("committed").inc()
        metrics.TRANSACTION_SECONDS.observe(time.monotonic() - started_s)
        return records

    def _abort(self, error: KafkaException) -> None:
        cause = error.args[0]
        metrics.TRANSACTIONS.labels("aborted").inc()
        self._aborts += 1
        if is_fatal(cause) or self._aborts > MAX_ABORTS:
            raise error
        self._patiently(self._producer.abort_transaction, BROKER_S)
        if cause.code() in FENCED:  # the consumer is finished, if not this producer: another try meets the same
            raise error
        raise AbortedError(f"{cause.name()}: {cause.str()}") from error

    def _patiently(self, call: Callable[..., Any], *arguments: Any) -> None:
        """Call again while Kafka is away; a process that is asked to end stops asking."""
        while True:
            try:
                call(*arguments)
            except KafkaException as error:
                cause = error.args[0]
                if not cause.retriable() or cause.txn_requires_abort() or self._ending.is_set():
                    raise
                log.get().warning("waiting for Kafka", code=cause.name(), text=cause.str())
                time.sleep(RETRY_S)
            else:
                return

    def _write(self, partition: int, part: Part) -> int:
        batch = part.batch
        sent = self._send("samples", partition, ((encode(s), s.user_id.encode()) for s in batch.samples))
        crash.point("streams.produce")
        sent += self._send("samples", partition, ((encode(d), d.user_id.encode()) for d in part.drops))
        sent += self._send("outcomes", partition, ((encode(o), o.user_id.encode()) for o in batch.outcomes))
        sent += self._send("popularity", partition, ((encode(c), i.encode()) for i, c in batch.popularity.items()))
        sent += self._send(
            "histories",
            partition,
            ((None if h is None else encode(h), user.encode()) for user, h in batch.histories.items()),
        )
        if batch.marker is not None:
            sent += self._send("samples", partition, [(encode(batch.marker), None)])
        letters = [Letter(d.source, d.reason, d.text, d.raw) for d in batch.dead_letters]
        return sent + self._bury(partition, [*letters, *part.letters])

    def _send(self, name: str, partition: int, rows: Iterable[Row]) -> int:
        topic, produce, sent = self._topic(name), self._producer.produce, 0
        for value, key in rows:
            try:
                produce(topic, value, key, partition)
            except BufferError:
                kafka.produce(self._producer, topic, value, key, partition=partition)
            sent += 1
        return sent

    def _bury(self, partition: int, letters: list[Letter]) -> int:
        for letter in letters:
            stage = "join" if letter.reason in {"orphan", "closed_while_idle"} else "door"
            made = kafka.dead_letter(letter.message, letter.reason, letter.text, stage)
            topic = self._topic(f"{letter.source}.dlq")
            kafka.produce(self._producer, topic, made.value, made.key, headers=made.headers, partition=partition)
            metrics.DEAD_LETTERS.labels(letter.source, letter.reason).inc()
        return len(letters)
