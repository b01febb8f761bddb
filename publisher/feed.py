"""What the publisher reads from Kafka, and how far it has committed.

Partitions are assigned, not subscribed: there is one publisher per namespace, it starts where Redis says it is, and
after a crash it need not wait for a group. The group only holds the committed offsets, for `headrace lag`.
"""

from typing import NamedTuple

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from contract import log
from contract.kafka import END_OF_PARTITION, admin, consumer, end_offsets, partition_counts
from contract.settings import Kafka
from contract.topics import Names

USER_RECORDS = 5_000
UPDATE_RECORDS = 16  # chunks are large
UPDATES_KBYTES = 32_768  # what may wait in memory
POLL_S = 0.05


class Taken(NamedTuple):
    """Records of one turn."""

    users: list[Message]  # of histories and profiles
    updates: list[Message]  # of updates and control


class Feed:
    """The consumers of histories and profiles, and of updates and control."""

    def __init__(self, kafka: Kafka, names: Names) -> None:
        self.updates_topic, self.control_topic = names.topic("updates"), names.topic("control")
        self._kafka, self._group = kafka, names.group("publisher")
        self._user_topics = [names.topic("histories"), names.topic("profiles")]
        self._users: Consumer | None = None
        self._updates: Consumer | None = None
        self._positions: dict[tuple[str, int], int] = {}  # next offset, transaction markers passed
        self._committed: dict[tuple[str, int], int] = {}

    def ends(self) -> dict[tuple[str, int], int]:
        """End of every partition that is read."""
        client = admin(self._kafka)
        counts = partition_counts(client)
        topics = [*self._user_topics, self.updates_topic, self.control_topic]
        return end_offsets(client, [TopicPartition(t, p) for t in topics for p in range(counts[t])])

    def open(self, starts: dict[tuple[str, int], int]) -> None:
        """Read every partition anew from its offset; the beginning where none is given below its end."""
        self.close()
        self._positions, self._committed = {}, {}
        parts = [TopicPartition(*at, starts.get(at, OFFSET_BEGINNING)) for at in self.ends()]
        self._users = consumer(self._kafka, self._group)
        self._users.assign([p for p in parts if p.topic in self._user_topics])
        self._updates = consumer(self._kafka, self._group, queued_max_messages_kbytes=UPDATES_KBYTES)
        self._updates.assign([p for p in parts if p.topic not in self._user_topics])

    def take(self) -> Taken:
        """Records that are there, waiting for a moment where there are none; KafkaException when it is of no use."""
        if self._users is None or self._updates is None:
            raise RuntimeError("open() comes first")
        return Taken(
            self._records(self._users.consume(USER_RECORDS, POLL_S)),
            self._records(self._updates.consume(UPDATE_RECORDS, POLL_S)),
        )

    def commit(self, updates_floor: int | None) -> None:
        """Commit how far was read, of `updates` no further than `updates_floor`.

        Ends of partitions count, so that a transaction's marker is no lag.
        """
        for member in (self._users, self._updates):
            offsets = self._uncommitted(member, updates_floor) if member is not None else []
            if member is None or not offsets:
                continue
            try:
                member.commit(offsets=offsets, asynchronous=False)
            except KafkaException as error:
                log.get().warning("not_committed", reason=str(error))
            else:
                self._committed |= {(o.topic, o.partition): o.offset for o in offsets}

    def updates_behind(self) -> int:
        """Records of updates behind what was taken, as far as is known here."""
        if self._updates is None:
            return 0
        try:
            _, high = self._updates.get_watermark_offsets(TopicPartition(self.updates_topic, 0), cached=True)
        except KafkaException:
            return 0
        here = self._positions.get((self.updates_topic, 0), high)
        return max(0, high - here - 1)  # the last transaction's marker is no record

    def close(self) -> None:
        """Leave."""
        for member in (self._users, self._updates):
            if member is not None:
                member.close()
        self._users = self._updates = None

    def _records(self, messages: list[Message]) -> list[Message]:
        """Messages that are records; the rest says where the end is, or what is wrong."""
        records = []
        for message in messages:
            error, at = message.error(), (str(message.topic()), int(message.partition() or 0))
            if error is None:
                records.append(message)
                self._positions[at] = int(message.offset() or 0) + 1
            elif error.code() == END_OF_PARTITION:
                self._positions[at] = int(message.offset() or 0)
            elif error.fatal() or error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
                raise KafkaException(error)
            else:
                log.get().warning("kafka", reason=str(error))
        return records

    def _uncommitted(self, member: Consumer, updates_floor: int | None) -> list[TopicPartition]:
        found = []
        for part in member.assignment():
            at = (part.topic, part.partition)
            if part.topic == self.control_topic or at not in self._positions:
                continue
            here = self._positions[at]
            if part.topic == self.updates_topic and updates_floor is not None:
                here = min(here, updates_floor)
            if self._committed.get(at) != here:
                found.append(TopicPartition(*at, here))
        return found
