"""One idempotent producer to the raw topics: counts what was acknowledged, says which line a failure belongs to."""

import time
from collections import Counter
from types import TracebackType
from typing import NoReturn, Self

from confluent_kafka import KafkaError, KafkaException, Message
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

from contract.errors import BadInputError, HeadraceError, UnreachableError
from contract.kafka import create_topics, produce, producer, reach
from contract.messages import Click, Exposure, Item, RankingDrop, User
from contract.settings import Settings
from contract.topics import RAW_INPUTS

RECORD_OVERHEAD_BYTES = 120  # at most what Kafka's batch and record headers add to a record's key, value and headers
BATCH_BYTES = 1_000_000  # librdkafka's default
FLUSH_S = 10.0
RawMessage = Exposure | Click | Item | User | RankingDrop
Headers = list[tuple[str, bytes]]


class InterruptedSendError(HeadraceError):
    """Ctrl-C while sending: says how many events Kafka has acknowledged."""

    exit_code = 130


def key_of(message: RawMessage) -> bytes:
    """Record key of a raw message: its item for items, its user for all others."""
    return (message.item_id if isinstance(message, Item) else message.user_id).encode()


def known_topic(topic: str) -> str:
    """The name of a raw topic; BadInputError lists them for any other."""
    if topic not in RAW_INPUTS:
        raise BadInputError(f"there is no raw topic {topic!r}: wanted one of {', '.join(RAW_INPUTS)}")
    return topic


class Sender:
    """Sends records in order, as a context: left normally, everything is acknowledged or the reason is raised.

    `patience_ms` bounds how long an outage may last before the send fails (0: for ever, so that no record can be
    given up while a later one of its partition arrives). Ctrl-C flushes and raises InterruptedSendError.
    """

    def __init__(self, settings: Settings, topics: list[str], *, patience_ms: int = 30_000) -> None:
        self._names, self._kafka = settings.names, settings.kafka
        client = reach(settings.kafka)
        create_topics(settings)
        self._limits = {topic: limit_bytes(client, self._names.topic(topic)) for topic in topics}
        limit = min(self._limits.values())
        self._producer = producer(
            settings.kafka,
            message_timeout_ms=patience_ms,
            message_max_bytes=max(limit, 1_000),
            batch_size=max(1, min(BATCH_BYTES, limit - RECORD_OVERHEAD_BYTES)),
        )
        self.sent: Counter[str] = Counter()
        self.acknowledged = 0
        self._failure: tuple[str, KafkaError] | None = None

    def send(self, topic: str, key: bytes, value: bytes | None, where: str, headers: Headers | None = None) -> None:
        """Hand one record over; `where` names its line.

        Raises BadInputError when it is over the topic's limit, UnreachableError when an earlier one failed.
        """
        self.raise_failure()
        size = len(key) + len(value or b"") + sum(len(k) + len(v) for k, v in headers or ()) + RECORD_OVERHEAD_BYTES
        if size > self._limits[topic]:
            raise BadInputError(
                f"{where}: the record takes {size} bytes and {self._names.topic(topic)} takes at most "
                f"{self._limits[topic]} (max.message.bytes)"
            )

        def delivered(error: KafkaError | None, _message: Message) -> None:
            if error is None:
                self.acknowledged += 1
            elif self._failure is None:
                self._failure = (where, error)

        more = {"headers": headers} if headers else {}
        produce(self._producer, self._names.topic(topic), value, key, on_delivery=delivered, **more)
        self.sent[topic] += 1
        self._producer.poll(0)

    def wait(self, until_s: float) -> None:
        """Serve acknowledgements until a monotonic time."""
        while (left_s := until_s - time.monotonic()) > 0:
            self._producer.poll(min(left_s, 0.2))
            self.raise_failure()

    def flush(self) -> None:
        """Wait until everything is acknowledged; raises UnreachableError when something is not."""
        while self._producer.flush(0.2):
            self.raise_failure()
        self.raise_failure()

    def raise_failure(self) -> None:
        """Raise what a record failed with, if one did."""
        if self._failure is None:
            return
        where, error = self._failure
        raise UnreachableError(
            f"{where}: Kafka at {self._kafka.bootstrap_servers} did not take the record ({error.str()}); "
            f"{self.acknowledged} events before were acknowledged"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            try:
                self.flush()
            except KeyboardInterrupt:
                self._interrupted()
        elif issubclass(kind, KeyboardInterrupt):
            self._interrupted()
        else:
            self._producer.flush(FLUSH_S)
            self._drop()

    def _interrupted(self) -> NoReturn:
        left = self._producer.flush(FLUSH_S)
        self._drop()
        text = f"interrupted: {self.acknowledged} of {self.sent.total()} events sent are acknowledged"
        raise InterruptedSendError(text + (f"; Kafka has not answered for {left}" if left else "")) from None

    def _drop(self) -> None:
        self._producer.purge()
        self._producer.flush(0.2)


def limit_bytes(client: AdminClient, topic: str) -> int:
    """Largest record batch that a topic takes. Raises UnreachableError when the broker does not say."""
    resource = ConfigResource(ResourceType.TOPIC, topic)
    try:
        return int(client.describe_configs([resource])[resource].result(10)["max.message.bytes"].value)
    except KafkaException as error:
        raise UnreachableError(f"cannot read the configuration of topic {topic}: {error.args[0].str()}") from None
