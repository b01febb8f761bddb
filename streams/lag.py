"""How far a consumer group is, and how it fares (pure): offsets in, rows of kafka-consumer-groups and states out.

Transaction markers take offsets but are no records: what counts is the first *record* at or after the committed offset.

States follow LinkedIn Burrow (its wiki, Consumer Lag Evaluation Rules; core/internal/evaluator): rules over the last
looks at a partition, no threshold. Looks are WINDOW in number and so far apart that all of them together span more than
the longest pause between two commits of a role that is well. In this order:

    REWIND  a committed offset went back. Burrow asks this after the next rule; here it would apply events twice
    OK      some look saw no lag, or there are not yet WINDOW looks
    STOP    lag, and in all looks the offset stood still, and so did every other offset of its group
    STALL   the same, but the group committed elsewhere: it lives, this partition does not get on
    WARN    the offset moves on, and the lag never went down
    OK      everything else

Who has no window of looks (`brief`) asks how long the first unread record has lain there instead.

Burrow reads commits with their times from __consumer_offsets, where STALL is the same offset committed again and again.
Our roles commit only what has changed, so that a live group is told by its other partitions.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

import msgspec
from msgspec import Struct

WINDOW = 10  # looks, as Burrow keeps
SPAN = 1.5  # longest pause between two commits, times this: what WINDOW looks span
SHORTEST_SPAN_MS = 10_000  # a role that starts is no dead one
Place = tuple[str, str, int]  # group, topic, partition


class State(StrEnum):
    """How a partition of a group fares."""

    OK = "OK"
    WARN = "WARN"
    STOP = "STOP"
    STALL = "STALL"
    REWIND = "REWIND"


FAILING = (State.STOP, State.STALL, State.REWIND)


@dataclass(frozen=True, slots=True)
class Observed:
    """One partition of a group as read from the cluster."""

    group: str
    topic: str
    partition: int
    committed: int | None  # None: never committed
    start: int  # oldest offset that the log still holds
    end: int  # last stable offset
    first_offset: int | None  # of the first committed record at or after `committed`; None: there is none
    first_ms: int | None  # its Kafka timestamp
    records: int | None = None  # committed records from there to `end`, where they were counted


class Row(Struct, frozen=True):
    """A row of `headrace lag`; `lag` in records, `behind_s` from the first unread record's arrival to now."""

    group: str
    topic: str
    partition: int
    committed: int | None
    end: int
    lag: int
    behind_s: float
    state: State = State.OK


class Look(Struct, frozen=True, array_like=True):
    """One look at a partition of a group."""

    at_ms: int
    committed: int | None
    lag: int
    group_committed: int  # sum over all offsets of the group: whether it committed anything


def row(observed: Observed, now_ms: int) -> Row:
    """Measure one partition: lag 0 when no record is left to read, whatever markers follow."""
    if observed.first_offset is None:
        lag, behind_s = 0, 0.0
    else:
        lag = observed.end - observed.first_offset if observed.records is None else observed.records
        behind_s = max(0.0, (now_ms - observed.first_ms) / 1000) if observed.first_ms else 0.0
    return Row(
        observed.group, observed.topic, observed.partition, observed.committed, observed.end, lag, round(behind_s, 3)
    )


def total(rows: Iterable[Row]) -> int:
    """Lag of all rows together."""
    return sum(one.lag for one in rows)


def state(looks: Sequence[Look], window: int = WINDOW) -> State:
    """Judge a partition by its last looks, oldest first (see the module's docstring)."""
    if any(_went_back(before.committed, after.committed) for before, after in pairwise(looks)):
        return State.REWIND
    if len(looks) < window or any(look.lag == 0 for look in looks):
        return State.OK
    first, last = looks[0], looks[-1]
    if first.committed == last.committed:
        return State.STOP if first.group_committed == last.group_committed else State.STALL
    if all(after.lag >= before.lag for before, after in pairwise(looks)):
        return State.WARN
    return State.OK


def brief(looks: Sequence[Look], behind_s: float, longest_pause_ms: int) -> State:
    """Judge a partition that nobody has watched, by a few looks and the age of its first unread record.

    STOP or STALL where the offset stood still in all looks, and that record has lain unread for longer than a role that
    keeps up pauses between two commits. (One that catches up, between two commits, looks the same.) Never WARN.
    """
    if any(_went_back(before.committed, after.committed) for before, after in pairwise(looks)):
        return State.REWIND
    first, last = looks[0], looks[-1]
    moved = first.committed != last.committed or any(look.lag == 0 for look in looks)
    if moved or len(looks) == 1 or behind_s * 1000 < _span_ms(longest_pause_ms):
        return State.OK
    return State.STOP if first.group_committed == last.group_committed else State.STALL


def _went_back(before: int | None, after: int | None) -> bool:
    return before is not None and (after is None or after < before)


def interval_s(longest_pause_ms: int) -> float:
    """Time between two looks, given the longest pause between two commits of a role that is well."""
    return _span_ms(longest_pause_ms) / 1000 / (WINDOW - 1)


def _span_ms(longest_pause_ms: int) -> float:
    return max(SHORTEST_SPAN_MS, SPAN * longest_pause_ms)


class Watch:
    """The last looks at every partition of every group."""

    def __init__(self, looks: Mapping[Place, Iterable[Look]] | None = None) -> None:
        self.looks: dict[Place, deque[Look]] = {at: deque(some, WINDOW) for at, some in (looks or {}).items()}

    def add(self, rows: Sequence[Row], at_ms: int) -> list[Row]:
        """Take one look; give the rows with their states."""
        sums: dict[str, int] = {}
        for one in rows:
            sums[one.group] = sums.get(one.group, 0) + (one.committed or 0)
        told = []
        for one in rows:
            looks = self.looks.setdefault((one.group, one.topic, one.partition), deque(maxlen=WINDOW))
            looks.append(Look(at_ms, one.committed, one.lag, sums[one.group]))
            told.append(msgspec.structs.replace(one, state=state(looks)))
        return told

    def undecided(self) -> bool:
        """Whether another look may still tell more: a partition lags, was never seen to get on, and the window is not
        full.
        """  # noqa: D205
        return any(len(looks) < WINDOW and not _gets_on(looks) for looks in self.looks.values())


def _gets_on(looks: Iterable[Look]) -> bool:
    """Whether it is certain that a full window will be no worse than OK."""
    found = list(looks)
    return any(one.lag == 0 for one in found) or any(
        after.lag < before.lag and after.committed != before.committed for before, after in pairwise(found)
    )
