"""Reading `samples`: in the order of `Merge` with a bounded queue per partition, and again by offset."""

from typing import cast

from confluent_kafka import KafkaException, TopicPartition

from contract import kafka
from contract.errors import DataLossError
from contract.messages import HardNegatives, Marker, Sample, SampleRecord, decoder
from contract.settings import Settings
from trainer.days import Picks
from trainer.merge import Merge, Taken

RECORDS_AT_ONCE = 2_000
QUEUED_MAX = 20_000  # records of a partition that wait for their turn before it is paused
FETCH_WAIT_MS = 50  # how late the end of a partition is noticed
_record = decoder(SampleRecord)


class Reader:
    """Gives records in their turn and knows which offsets are behind them."""

    def __init__(self, settings: Settings, partitions: int, offsets: dict[int, int], merge: Merge) -> None:
        self.kafka, self.topic, self.merge = settings.kafka, settings.names.topic("samples"), merge
        self.consumer = kafka.consumer(settings.kafka, settings.names.group("trainer"), fetch_wait_max_ms=FETCH_WAIT_MS)
        self.start = {p: offsets.get(p, 0) for p in range(partitions)}
        for p, offset in self.start.items():
            self._still_there(p, offset)
        self.consumer.assign([TopicPartition(self.topic, p, offset) for p, offset in self.start.items()])
        self.paused: set[int] = set()

    def _still_there(self, partition: int, offset: int) -> None:
        low, high = kafka.watermarks(self.consumer, self.topic, partition)
        if offset and not low <= offset <= high:
            raise DataLossError(
                f"{self.topic} partition {partition} holds offsets {low} to {high}, the checkpoint goes on at {offset}"
                ": start a new --namespace, which replays the raw topics"
            )

    def poll(self, timeout_s: float) -> None:
        """Queue what has come."""
        for message in self.consumer.consume(RECORDS_AT_ONCE, timeout_s):
            error, partition = message.error(), cast("int", message.partition())
            if error is None:
                value = cast("bytes", message.value())
                self.merge.add(partition, cast("int", message.offset()), _record.decode(value))
            elif error.code() == kafka.END_OF_PARTITION:
                self.merge.end(partition)
            elif not error.retriable():
                raise KafkaException(error)
        self._hold_back()

    def _hold_back(self) -> None:
        full = {p for p in self.merge.lanes if self.merge.queued(p) > QUEUED_MAX}
        empty = {p for p in self.paused if self.merge.queued(p) < QUEUED_MAX // 4}
        if new := full - self.paused:
            self.consumer.pause([TopicPartition(self.topic, p) for p in new])
        if empty:
            self.consumer.resume([TopicPartition(self.topic, p) for p in empty])
        self.paused = (self.paused | full) - empty

    def positions(self, pending: list[Taken]) -> dict[int, int]:
        """First record of each partition that is not learned, with `pending` taken but not learned."""
        found = self.consumer.position([TopicPartition(self.topic, p) for p in self.start])
        behind = {at.partition: at.offset if at.offset >= 0 else self.start[at.partition] for at in found}
        for p, lane in self.merge.lanes.items():
            if lane.queue:
                behind[p] = lane.queue[0][0]
        for taken in reversed(pending):
            behind[taken.partition] = taken.offset
        return behind

    def commit(self, offsets: dict[int, int]) -> None:
        """Tell Kafka how far the checkpoint is, so that lag tools see it."""
        self.consumer.commit(
            offsets=[TopicPartition(self.topic, p, offset) for p, offset in offsets.items()], asynchronous=False
        )

    def close(self) -> None:
        """Leave."""
        self.consumer.close()


def again(settings: Settings, picks: Picks) -> list[Sample]:
    """Samples read once more by partition and offset, in the order of the picks, without those retention has taken."""
    records = records_at(settings, picks)
    found = (records.get(at) for at in picks.places())
    return [record for record in found if isinstance(record, Sample)]


def records_at(settings: Settings, picks: Picks) -> dict[tuple[int, int], Sample | HardNegatives]:
    """Records read once more, by partition and offset, without those retention has taken."""
    topic = settings.names.topic("samples")
    wanted = set(picks.places())
    found: dict[tuple[int, int], Sample | HardNegatives] = {}
    consumer = kafka.consumer(settings.kafka, settings.names.group("trainer-again"))
    spans: dict[int, list[int]] = {}
    for p, offset in wanted:
        spans.setdefault(p, []).append(offset)
    consumer.assign([TopicPartition(topic, p, min(offsets)) for p, offsets in spans.items()])
    last = {p: max(offsets) for p, offsets in spans.items()}
    try:
        while last:
            for message in consumer.consume(RECORDS_AT_ONCE, 0.2):
                error, partition = message.error(), cast("int", message.partition())
                offset = cast("int", message.offset())
                if error is None:
                    if (partition, offset) in wanted:
                        record = _record.decode(cast("bytes", message.value()))
                        if not isinstance(record, Marker):
                            found[partition, offset] = record
                elif error.code() != kafka.END_OF_PARTITION and not error.retriable():
                    raise KafkaException(error)
                ended = error is None or error.code() == kafka.END_OF_PARTITION
                if ended and offset >= last.get(partition, offset + 1):
                    consumer.incremental_unassign([TopicPartition(topic, partition)])
                    del last[partition]
    finally:
        consumer.close()
    return found
