"""Event time of two logs, offline: which records pass the door, where W stood, what each idle advance came before.

Pure, and in constant memory per record (JOIN.md, Time and Order of verdicts).
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from contract.messages import Advance, Click, Exposure, RankingDrop

NEVER = -(1 << 62)  # before every event time; minus a lateness it still is
E = TypeVar("E", Exposure, Click, RankingDrop)


@dataclass(frozen=True, slots=True)
class Rules:
    """The settings that decide verdicts, as plain numbers."""

    window_ms: int
    lateness_ms: int
    max_skew_ms: int
    history_length: int
    shown_exposures: int
    half_life_ms: int
    clicks_only: bool = False


class Record(NamedTuple, Generic[E]):
    """A record of a raw log: `event`, or the reason for which the door refused it."""

    offset: int
    arrival_ms: int
    event: E | None
    refused: str = ""


class Accepted(NamedTuple, Generic[E]):
    """A record that passed the door: neither broken, on a wrong partition, ahead nor late."""

    offset: int
    arrival_ms: int
    event: E


class Log:
    """Event time of one log, record by record: M_x, at its end and at each of some offsets."""

    def __init__(self, positions: Iterable[int] = ()) -> None:
        self.newest_ms = NEVER
        self._positions = deque(positions)
        self.newest_at: list[int] = []  # M_x of the records below each position, position by position

    def verdict(self, rules: Rules, record: Record[E]) -> str:
        """Reason for which a record goes to the DLQ by itself; empty: accepted. Call in offset order."""
        self._pass(record.offset)
        if record.event is None:
            return record.refused
        ts_ms = record.event.ts_ms
        if ts_ms > record.arrival_ms + rules.max_skew_ms:
            return "ahead"
        late = ts_ms < self.newest_ms - rules.lateness_ms
        self.newest_ms = max(self.newest_ms, ts_ms)
        return "late" if late else ""

    def end(self) -> None:
        """Take note that the log has been read to its end."""
        self._pass(None)

    def _pass(self, offset: int | None) -> None:
        while self._positions and (offset is None or self._positions[0] <= offset):
            self._positions.popleft()
            self.newest_at.append(self.newest_ms)


def judge(
    rules: Rules, log: Log, records: Iterable[Record[E]], refuse: Callable[[int, str], object]
) -> Iterator[Accepted[E]]:
    """Accepted records of a log; `refuse(offset, reason)` hears of the others. Exhaust it to complete `log`."""
    for record in records:
        if reason := log.verdict(rules, record):
            refuse(record.offset, reason)
        elif record.event is not None:
            yield Accepted(record.offset, record.arrival_ms, record.event)
    log.end()


class Times:
    """Where event time stood: W of both logs at their ends, and what each advance did to whom.

    An advance acts on what was read below its two positions (offsets compared with `<`) and was made before whatever
    has its position or more. Advances are few beside records; each question is two bisections and a walk up `_higher`.
    """

    def __init__(self, rules: Rules, exposures: Log, clicks: Log, advances: Sequence[Advance]) -> None:
        self.exposures_ms = exposures.newest_ms - rules.lateness_ms
        self.both_ms = min(self.exposures_ms, clicks.newest_ms - rules.lateness_ms)
        self.ref_ms = max(exposures.newest_ms, clicks.newest_ms)
        self.advances = advances
        self._exposures = [a.exposures_position for a in advances]
        self._clicks = [a.clicks_position for a in advances]
        self._exposures_ms = [newest - rules.lateness_ms for newest in exposures.newest_at]
        self._higher = _next_higher([a.w_ms for a in advances])

    def after_click(self, offset: int, over_ms: int) -> Advance | None:
        """First advance made after this click was read whose w is over `over_ms`."""
        at = self._over(bisect_right(self._clicks, offset), over_ms)
        return self.advances[at] if at < len(self.advances) else None

    def after_exposure(
        self, offset: int, over_ms: int, *, before_click: int | None = None, seen_ms: int = NEVER
    ) -> bool:
        """Whether an advance with w over `over_ms` came after this exposure and before that click was read.

        `seen_ms`: W_exposures was over it by then.
        """
        start = max(bisect_right(self._exposures, offset), bisect_right(self._exposures_ms, seen_ms))
        stop = len(self.advances) if before_click is None else bisect_right(self._clicks, before_click)
        return self._over(start, over_ms) < stop

    def _over(self, at: int, over_ms: int) -> int:
        while at < len(self.advances) and self.advances[at].w_ms <= over_ms:
            at = self._higher[at]
        return at


def _next_higher(values: Sequence[int]) -> list[int]:
    """Index of the next value that is larger, for each; the length where there is none."""
    found = [len(values)] * len(values)
    waiting: list[int] = []
    for at, value in enumerate(values):
        while waiting and values[waiting[-1]] < value:
            found[waiting.pop()] = at
        waiting.append(at)
    return found
