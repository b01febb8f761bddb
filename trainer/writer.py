"""The one writer of `updates`: each update is a transaction, together with the tombstones that it makes possible."""

from collections.abc import Iterable

from confluent_kafka import KafkaException, Producer

from contract import crash, kafka
from contract.errors import RefusedError
from contract.messages import encode
from contract.settings import Settings
from contract.updates import Chunk

ATTEMPTS = 5
TIMEOUT_S = 30
TRANSACTION_TIMEOUT_MS = 300_000  # a big snapshot takes long; brokers allow 15 min by default
Key = tuple[int, int, int]  # version, sequence, chunk


class Writer:
    """Knows which records stand on `updates`.

    Opening it fences every writer before it (one transactional id) and ends its open transaction.
    """

    def __init__(self, settings: Settings) -> None:
        self.topic = settings.names.topic("updates")
        self.keep_versions = settings.publish.keep_versions
        self.producer: Producer = kafka.producer(
            settings.kafka,
            transactional_id=settings.names.transactional_id("trainer"),
            transaction_timeout_ms=TRANSACTION_TIMEOUT_MS,
            linger_ms=0,
        )
        self.producer.init_transactions(TIMEOUT_S)
        self.keys: set[Key] = set()
        for message in kafka.read_to_end(settings.kafka, self.topic, [0]):
            key = _key(message.key())
            if key is None:
                continue
            self.keys.add(key) if message.value() else self.keys.discard(key)

    def last(self) -> tuple[int, int]:
        """Newest version on the topic and its last sequence; (0, -1): none."""
        return max(((version, sequence) for version, sequence, _ in self.keys), default=(0, -1))

    def write(self, chunks: list[Chunk]) -> int:
        """Write one update, and tombstones of what it replaces; gives the bytes written.

        Raises RefusedError when another trainer has taken over, KafkaException when Kafka stays away.
        """
        head = chunks[0]
        gone = self._replaced(head.version, head.sequence) if head.kind == "snapshot" else []
        records: list[tuple[bytes, bytes | None]] = [(c.key, encode(c)) for c in chunks]
        records += [(f"{v}/{s}/{c}".encode(), None) for v, s, c in gone]
        self._transaction(records)
        crash.point("trainer.after_publish")
        self.keys.difference_update(gone)
        self.keys.update((c.version, c.sequence, c.chunk) for c in chunks)
        return sum(len(value or b"") for _, value in records)

    def _replaced(self, version: int, sequence: int) -> list[Key]:
        """Keys that a snapshot makes needless: what its version had before, and versions beyond those kept."""
        versions = sorted({v for v, _, _ in self.keys} | {version})
        kept = set(versions[-self.keep_versions :])
        return sorted(k for k in self.keys if k[0] not in kept or (k[0] == version and k[1] < sequence))

    def _transaction(self, records: Iterable[tuple[bytes, bytes | None]]) -> None:
        records = list(records)
        for attempt in range(1, ATTEMPTS + 1):
            try:
                self.producer.begin_transaction()
                for key, value in records:
                    kafka.produce(self.producer, self.topic, value, key, partition=0)
                crash.point("trainer.before_publish")
                self._commit()
            except KafkaException as error:
                problem = error.args[0]
                if problem.fatal():
                    raise RefusedError(
                        f"{self.topic}: another trainer of this namespace has taken over ({problem.name()})"
                    ) from None
                if not problem.txn_requires_abort() or attempt == ATTEMPTS:
                    raise
                self.producer.abort_transaction(TIMEOUT_S)
            else:
                return

    def _commit(self) -> None:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                self.producer.commit_transaction(TIMEOUT_S)
            except KafkaException as error:
                if not error.args[0].retriable() or attempt == ATTEMPTS:
                    raise
            else:
                return


def _key(key: str | bytes | None) -> Key | None:
    text = key.decode() if isinstance(key, bytes) else key or ""
    parts = text.split("/")
    return (int(parts[0]), int(parts[1]), int(parts[2])) if len(parts) == 3 else None  # noqa: PLR2004
