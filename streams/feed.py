"""From fetched records to the core: door, ranking-drops, deleted users, records that the core cannot take."""

from collections.abc import Callable
from typing import Any, cast

from confluent_kafka import Message

from contract import log
from contract.errors import InternalError
from contract.messages import Click, Exposure, HardNegatives, RankingDrop
from streams.course import Course
from streams.door import Door, Homes, Refused
from streams.idleness import Lane
from streams.inputs import Inputs
from streams.join import Join, Source
from streams.restore import PoisonError
from streams.transaction import Letter

MAX_TRIES = 2  # failures of the core on one record before it is dead-lettered
MAX_POISON = 1_000

Counter = Callable[[str, int], None]


class Poison:
    """Records that the core fails on: the second time that one does, it is dead-lettered, alone."""

    def __init__(self) -> None:
        self.offsets: dict[Lane, set[int]] = {}
        self._failures: dict[tuple[Lane, int], list[str]] = {}

    def failed(self, error: PoisonError) -> None:
        """Count a failure."""
        lane = (error.source, error.partition)
        texts = self._failures.setdefault((lane, error.offset), [])
        texts.append(str(error))
        log.get().error("the core failed", at=str(error), tries=len(texts), exc_info=error.__cause__)
        if len(texts) >= MAX_TRIES:
            self.offsets.setdefault(lane, set()).add(error.offset)
        if len(self._failures) > MAX_POISON:
            raise InternalError(f"the core failed on {len(self._failures)} records, the last {error}: stopping")

    def text(self, lane: Lane, offset: int) -> str:
        """Why a record is poison."""
        return self._failures[(lane, offset)][-1]


class Feed:
    """Feeds one worker's cores; what bypasses them (ranking-drops, their dead letters, positions) waits here."""

    def __init__(
        self,
        inputs: Inputs,
        partitions: int,
        max_skew_ms: int,
        max_ahead_ms: int,
        count: Counter,
        course: Course | None = None,
    ) -> None:
        homes = Homes(partitions)
        self.exposures, self.clicks = Door(Exposure, homes), Door(Click, homes)
        self._ranking_drops = Door(RankingDrop, homes)
        self._inputs, self._count = inputs, count
        self._max_skew_ms, self._max_ahead_ms = max_skew_ms, max_ahead_ms
        self.course = course or Course(None)
        self.poison = Poison()
        self.positions: dict[Lane, int] = {}
        self._drops: dict[int, list[HardNegatives]] = {}
        self._letters: dict[int, list[Letter]] = {}

    def clear(self) -> None:
        """Forget everything not committed."""
        self.positions.clear()
        self._drops.clear()
        self._letters.clear()

    def take(self, partition: int) -> tuple[list[HardNegatives], list[Letter]]:
        """Hard negatives and dead letters of ranking-drops since the last take."""
        return self._drops.pop(partition, []), self._letters.pop(partition, [])

    def feed(self, join: Join, partition: int) -> int:
        """Feed everything fetched of one partition; give back how many records and ends that was.

        Raises PoisonError when the core fails on a record.
        """
        sources: tuple[Source, ...] = ("exposures", "clicks") if "exposures" in self._inputs.joined else ("clicks",)
        events = 0
        while True:
            events += sum(self._input(join, source, partition) for source in sources)
            advance = self.course.due(partition, join.position)
            if advance is None:
                break
            join.repeat(advance)
            events += 1
        return events + self._hard_negatives(partition) + self._deletions(join, partition)

    def _input(self, join: Join, source: Source, partition: int) -> int:
        lane, events = (source, partition), 0
        limit = self.course.limit(source, partition)
        if self._inputs.waiting(lane):
            if self._too_far_ahead(join, source, partition):
                self._inputs.hold(lane)
                return 0
            messages = self._inputs.take(lane, limit)
            events = len(messages)
            self._events(join, source, partition, messages)
            self._count(source, events)
        end = self._inputs.end(lane)
        if limit is not None and self._inputs.reaches(lane, limit):
            self._inputs.hold(lane)
            end = limit
        if end is not None and self.positions.get(lane) != end:
            join.end_of_partition(source, end)
            self.positions[lane] = end
            events += 1
        return events

    def _events(self, join: Join, source: Source, partition: int, messages: list[Message]) -> None:
        lane = (source, partition)
        enter: Callable[[Any, int], Any] = (self.exposures if source == "exposures" else self.clicks).enter
        add: Callable[[Any, int, Any, Any], None] = join.exposure if source == "exposures" else join.click
        poison = self.poison.offsets.get(lane)
        offset: Any = -1
        try:
            for message in messages:
                offset = message.offset()
                if poison and offset in poison:
                    join.refuse(source, offset, "poison", self.poison.text(lane, offset), message)
                    continue
                try:
                    event = enter(message.value(), partition)
                except Refused as refused:
                    join.refuse(source, offset, refused.reason, str(refused), message)
                    continue
                add(offset, message.timestamp()[1], event, message)
        except Exception as error:
            raise PoisonError(source, partition, offset, error) from error

    def _too_far_ahead(self, join: Join, source: Source, partition: int) -> bool:
        """Whether an input must wait for the other one, which is behind and has unread records."""
        other: Source = "clicks" if source == "exposures" else "exposures"
        mine = join.progress_ms(source)
        if mine is None or other not in self._inputs.joined or self._inputs.end((other, partition)) is not None:
            return False
        limit = self.course.limit(other, partition)
        if limit is not None and join.position(other) >= limit:  # it waits, too
            return False
        theirs = join.progress_ms(other)
        return theirs is None or mine - theirs > self._max_ahead_ms

    def _hard_negatives(self, partition: int) -> int:
        lane = ("ranking-drops", partition)
        limit = self.course.limit(*lane)
        messages = self._inputs.take(lane, limit)
        for message in messages:
            offset = cast("int", message.offset())
            try:
                drop = self._ranking_drop(message, partition)
            except Refused as refused:
                letter = Letter("ranking-drops", refused.reason, str(refused), message)
                self._letters.setdefault(partition, []).append(letter)
                continue
            self._drops.setdefault(partition, []).append(
                HardNegatives(drop.user_id, drop.ts_ms, drop.items, offset, drop.request_id or "", drop.stage)
            )
        return self._passed(lane, messages, limit)

    def _ranking_drop(self, message: Message, partition: int) -> RankingDrop:
        drop = self._ranking_drops.enter(message.value(), partition)
        ahead_ms = drop.ts_ms - message.timestamp()[1]
        if ahead_ms > self._max_skew_ms:
            text = f"ts_ms {drop.ts_ms} is {ahead_ms} ms ahead of its arrival; join.max_skew_ms is {self._max_skew_ms}"
            raise Refused("ahead", text)
        return drop

    def _deletions(self, join: Join, partition: int) -> int:
        lane = ("profiles", partition)
        messages = self._inputs.take(lane)
        for message in messages:
            key = message.key()
            if message.value() is None and key is not None:
                join.forget_user(key.decode("utf-8", "replace"))
        return self._passed(lane, messages)

    def _passed(self, lane: Lane, messages: list[Message], limit: int | None = None) -> int:
        """Note how far an input beside the join is read."""
        end = self._inputs.end(lane)
        if limit is not None and self._inputs.reaches(lane, limit):
            self._inputs.hold(lane)
            end = limit
        position = end if end is not None else cast("int", messages[-1].offset()) + 1 if messages else None
        if position is None or self.positions.get(lane) == position:
            return 0
        self.positions[lane] = position
        self._count(lane[0], len(messages))
        return len(messages) + 1
