"""The consumer side of the loop: what is assigned, fetched, at its end, silent, or paused for the other input."""

import time
from bisect import bisect_left
from collections.abc import Callable
from threading import Event
from typing import Any, cast

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from contract import kafka, log
from contract.errors import DataLossError, InternalError, UnreachableError
from contract.settings import Settings
from streams.fenced import is_fatal
from streams.idleness import Idleness, Lane
from streams.restore import Interrupted

OFFSETS_PATIENCE_S = 120.0  # a dead worker's open transaction hides its offsets for transaction_timeout_ms
MAX_POLL_INTERVAL_MS = 600_000
STALL_S = 1.0  # a turn longer than this: this process was stopped or busy, nobody knows what waits


class Inputs:
    """Fetches into one inbox per lane; every change of partitions leaves all of them paused until `go`.

    `fetch` returns False when partitions moved meanwhile: what it fetched is void and `unsettled` is set.
    """

    def __init__(
        self, settings: Settings, slot: int, ending: Event, revoked: Callable[[], None], lost: Callable[[], None]
    ) -> None:
        self.joined = ("clicks",) if settings.join.mode == "clicks-only" else ("exposures", "clicks")
        self.sources = (*self.joined, "ranking-drops", "profiles")
        self.committed: dict[Lane, TopicPartition] = {}
        self.unsettled = False
        self._names = settings.names
        self._source = {settings.names.topic(s): s for s in self.sources}
        self._ending, self._revoked, self._lost = ending, revoked, lost
        self._idleness = Idleness(settings.join.idle_timeout_ms / 1000)
        self._confirm_s = settings.join.idle_timeout_ms / 1000
        self._confirmed: dict[Lane, float] = {}
        self._stash = 2 * settings.streams.batch_records
        self._inbox: dict[Lane, list[Message]] = {}
        self._ends: dict[Lane, int] = {}
        self._paused: set[Lane] = set()
        self._last_turn_s = time.monotonic()
        self._moves = 0
        more: dict[str, Any] = {
            "group.instance.id": settings.names.transactional_id("streams", slot),
            "client.id": settings.names.transactional_id("streams", slot),
            "session.timeout.ms": settings.streams.session_timeout_ms,
            "heartbeat.interval.ms": min(3_000, settings.streams.session_timeout_ms // 3),
            "max.poll.interval.ms": max(MAX_POLL_INTERVAL_MS, settings.streams.session_timeout_ms),
            "auto.offset.reset": "error",  # an offset that is gone is a loss, never a silent jump
            "queued.min.messages": 4 * settings.streams.batch_records,
            "error_cb": self._on_error,
        }
        self.consumer: Consumer = kafka.consumer(settings.kafka, settings.names.group("streams"), **more)
        self._admin = kafka.admin(settings.kafka)

    def open(self) -> None:
        """Join the group."""
        self.consumer.subscribe(
            list(self._source), on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
        )

    def close(self) -> None:
        """Leave (a static member keeps its partitions until the session ends); calls `revoked` while it can commit."""
        self.consumer.close()

    # ---- fetching

    def fetch(self, records: int, timeout_s: float) -> bool:
        """Fetch up to `records` into the inboxes; False: partitions moved, settle first."""
        moves = self._moves
        messages = self.consumer.consume(records, timeout_s)
        now_s = time.monotonic()
        if now_s - self._last_turn_s > STALL_S:
            self._idleness.trouble(now_s)
        self._last_turn_s = now_s
        if self._moves != moves or self.unsettled:
            for error in filter(None, (message.error() for message in messages)):
                if is_fatal(error):  # what came is void, but this is the only time that it is said
                    raise KafkaException(error)
            return False
        self._sort(messages, now_s)
        return True

    def _sort(self, messages: list[Message], now_s: float) -> None:
        topic, partition, box = "", -1, list[Message]()  # records come in runs of one partition
        for message in messages:
            error = message.error()
            if error is None:
                if message.partition() != partition or message.topic() != topic:
                    topic, partition = cast("str", message.topic()), cast("int", message.partition())
                    box = self._open_box((self._source[topic], partition))
                box.append(message)
            elif error.code() == kafka.END_OF_PARTITION:
                lane = self._source[cast("str", message.topic())], cast("int", message.partition())
                self._ends[lane] = cast("int", message.offset())
                self._idleness.ended(lane, now_s)
                topic = ""
            else:
                self._judge(message, error)

    def _open_box(self, lane: Lane) -> list[Message]:
        for source in self.joined:  # what is read may have come together with what is not fetched yet: ask anew
            self._confirmed.pop((source, lane[1]), None)
        if self._ends.pop(lane, None) is not None:
            self._idleness.moved(lane, time.monotonic())
        return self._inbox[lane]

    def take(self, lane: Lane, below: int | None = None) -> list[Message]:
        """Everything fetched of a lane and not taken yet, in order (`below` an offset); resumes it if it was paused."""
        messages, rest = self._inbox[lane], list[Message]()
        if below is not None and messages and cast("int", messages[-1].offset()) >= below:
            cut = bisect_left(messages, below, key=lambda message: cast("int", message.offset()))
            messages, rest = messages[:cut], messages[cut:]
        if messages:
            self._inbox[lane] = rest
        if lane in self._paused and len(rest) <= self._stash:
            self._paused.discard(lane)
            self.consumer.resume([self._at(lane)])
        return messages

    def reaches(self, lane: Lane, offset: int) -> bool:
        """Whether nothing below an offset is left to fetch or to take."""
        messages = self._inbox[lane]
        if messages:
            return cast("int", messages[0].offset()) >= offset
        return self._ends.get(lane, -1) >= offset

    def hold(self, lane: Lane) -> None:
        """Leave a lane's records where they are: the other input is behind; paused once enough are fetched."""
        if lane not in self._paused and len(self._inbox[lane]) > self._stash:
            self._paused.add(lane)
            self._idleness.moved(lane, time.monotonic())
            self.consumer.pause([self._at(lane)])

    def waiting(self, lane: Lane) -> bool:
        """Whether records of a lane are fetched and not taken."""
        return bool(self._inbox[lane])

    def end(self, lane: Lane) -> int | None:
        """End offset of a lane that is read to its end (transaction markers passed), else None."""
        return None if self._inbox[lane] else self._ends.get(lane)

    def unread(self) -> int:
        """Records of the join's inputs known to be there and not taken, some of them perhaps only markers."""
        unread = 0
        for at in self.consumer.position([self._at(lane) for lane in self._inbox if lane[0] in self.joined]):
            lane = (self._source[at.topic], at.partition)
            _, high = self.consumer.get_watermark_offsets(at, cached=True)
            fetched = at.offset if at.offset >= 0 else max(self.committed[lane].offset, 0)
            unread += max(0, high - fetched) + len(self._inbox[lane])
        return unread

    def committed_now(self, offsets: list[TopicPartition]) -> None:
        """Note what a transaction committed."""
        for at in offsets:
            self.committed[(self._source[at.topic], at.partition)] = at

    # ---- silence

    def silent(self) -> set[Lane]:
        """Join inputs at their end for idle_timeout, asked of the broker anew; empty when it does not answer."""
        now_s = time.monotonic()
        lanes = {lane for lane in self._idleness.silent(now_s) if lane[0] in self.joined and lane not in self._paused}
        doubtful = [lane for lane in lanes if self._confirmed.get(lane, 0.0) <= now_s]
        if doubtful:
            try:
                ends = kafka.end_offsets(self._admin, [self._at(lane) for lane in doubtful], committed=True)
            except KafkaException:
                self._idleness.trouble(now_s)
                return set()
            for lane in doubtful:
                if ends[(self._names.topic(lane[0]), lane[1])] == self._ends.get(lane):
                    self._confirmed[lane] = now_s + self._confirm_s
                else:
                    lanes.discard(lane)
        return lanes

    def lag(self) -> dict[Lane, int]:
        """Records (and markers) between what was committed and the newest end that the consumer has heard of."""
        lags = {}
        for lane, committed in self.committed.items():
            _, high = self.consumer.get_watermark_offsets(self._at(lane), cached=True)
            if high >= 0:
                lags[lane] = max(0, high - max(committed.offset, 0))
        return lags

    # ---- partitions

    def partitions(self) -> list[int]:
        """Partition numbers of this worker; InternalError unless it has every input of each."""
        held: dict[int, set[str]] = {}
        for at in self.consumer.assignment():
            held.setdefault(at.partition, set()).add(self._source[at.topic])
        for number, sources in held.items():
            if missing := set(self.sources) - sources:
                raise InternalError(f"partition {number}: {missing} went to another worker than {sources}")
        return sorted(held)

    def keep_alive(self) -> None:
        """Stay a member while state is rebuilt; Interrupted when partitions move or the process ends."""
        moves = self._moves
        stray = self.consumer.poll(0)
        if stray is not None:
            self._stray(stray)
        if self._moves != moves or self._ending.is_set():
            raise Interrupted

    def _stray(self, message: Message) -> None:
        """Take what comes while all is paused: a record will be read again, an error is an error at any time."""
        if message.error() is None:
            self.restart()
        elif cast("KafkaError", message.error()).code() != kafka.END_OF_PARTITION:
            self._judge(message, cast("KafkaError", message.error()))

    def restart(self) -> None:
        """Start again from the committed offsets, paused."""
        self._start(self.consumer.assignment())

    def go(self) -> None:
        """State is there: let records come."""
        self._idleness.trouble(time.monotonic())
        self.unsettled = False
        self.consumer.resume(self.consumer.assignment())

    def _start(self, partitions: list[TopicPartition]) -> None:
        self._stop()
        self.unsettled = True
        found = self._committed_offsets(partitions)
        self.committed = {(self._source[p.topic], p.partition): p for p in found}
        self._inbox = {lane: [] for lane in self.committed}
        starts = [TopicPartition(p.topic, p.partition, p.offset if p.offset >= 0 else OFFSET_BEGINNING) for p in found]
        self.consumer.assign(starts)
        if starts:
            self.consumer.pause(starts)

    def _stop(self) -> None:
        self._moves += 1
        self._inbox, self._ends = {}, {}
        self._paused.clear()
        self._confirmed.clear()
        self._idleness.forget()

    def _committed_offsets(self, partitions: list[TopicPartition]) -> list[TopicPartition]:
        until_s = time.monotonic() + OFFSETS_PATIENCE_S
        wanted = [TopicPartition(p.topic, p.partition) for p in partitions]
        while wanted:
            try:
                found = self.consumer.committed(wanted, timeout=2)
            except KafkaException as error:
                if is_fatal(error.args[0]):
                    raise
            else:
                if not any(p.error for p in found):
                    return list(found)
            if self._ending.wait(0.1):
                raise Interrupted
            if time.monotonic() > until_s:
                raise UnreachableError(f"Kafka gives no committed offsets of {len(wanted)} partitions: does it run?")
        return []

    def _on_assign(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        self._start(partitions)

    def _on_revoke(self, consumer: Consumer, _: list[TopicPartition]) -> None:
        self._revoked()
        self._stop()
        consumer.unassign()

    def _on_lost(self, consumer: Consumer, _: list[TopicPartition]) -> None:
        self._lost()
        self._stop()
        consumer.unassign()

    def _on_error(self, error: KafkaError) -> None:
        self._idleness.trouble(time.monotonic())
        log.get().warning("kafka", code=error.name(), text=error.str())

    def _judge(self, message: Message, error: KafkaError) -> None:
        if error.code() == KafkaError._AUTO_OFFSET_RESET:  # noqa: SLF001  (no public name for it)
            raise DataLossError(
                f"{message.topic()}-{message.partition()}: the log no longer holds offset {message.offset()}, which is "
                "unread: retention took events; raise retention.ms, and start a new namespace from what is left"
            )
        if is_fatal(error):  # it would never fetch again, and look alive
            raise KafkaException(error)
        self._idleness.trouble(time.monotonic())
        log.get().warning("kafka", code=error.name(), text=error.str(), topic=message.topic())

    def _at(self, lane: Lane) -> TopicPartition:
        return TopicPartition(self._names.topic(lane[0]), lane[1])
