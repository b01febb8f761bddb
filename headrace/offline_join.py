"""The join once more, offline: what streams must have made of two logs and their recorded idle advances.

Written from JOIN.md and nothing else of ours: no state that is dropped, re-read or committed, just the whole logs of
one partition number. `headrace audit` and the tests compare the streaming core with it.

Two passes. `offline_times.judge` needs a record's own prefix only and runs over a whole log in constant memory.
`join_users` needs every accepted record of a user, and of no other user, so a partition may be joined in slices of
users. In between stands `offline_times.Times`: how far event time came, at the logs' ends and at each advance.
"""

from bisect import bisect_left, bisect_right
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from contract.messages import (
    Advance,
    Click,
    Exposure,
    History,
    HistoryEntry,
    ItemScore,
    Outcome,
    RingEntry,
    Sample,
    ShownEntry,
)
from headrace.offline_times import Accepted, Log, Record, Rules, Times, judge

SampleId = tuple[str, str, int, str]


@dataclass(slots=True)
class Count:
    """An item's counts within one partition; decayed ones as of the partition's newest event time."""

    exposures: int = 0
    clicks: int = 0
    decayed_exposures: float = 0.0
    decayed_clicks: float = 0.0

    def add(self, other: "Count") -> None:
        """Add the counts of other users."""
        self.exposures += other.exposures
        self.clicks += other.clicks
        self.decayed_exposures += other.decayed_exposures
        self.decayed_clicks += other.decayed_clicks


@dataclass(slots=True)
class Joined:
    """Everything that streams must have written for what was joined; `ref_ms` dates the decayed counts."""

    ref_ms: int
    samples: dict[SampleId, Sample] = field(default_factory=dict)
    outcomes: dict[int, Outcome] = field(default_factory=dict)  # by the exposure's offset
    dead_letters: list[tuple[str, int, str]] = field(default_factory=list)  # (source, offset, reason)
    popularity: dict[str, Count] = field(default_factory=dict)
    histories: dict[str, History] = field(default_factory=dict)
    undecided: list[int] = field(default_factory=list)  # offsets of clicks that no verdict is due for
    waiting: list[int] = field(default_factory=list)  # offsets of matched clicks behind an undecided one
    repeats: Counter[str] = field(default_factory=Counter)


Shown = tuple[int, int, Exposure]  # (ts_ms, offset, exposure): the order of id-less matching


class _Exposures:
    """Accepted exposures of some users in offset order, and by each `clicked` (user, item) in time order."""

    def __init__(
        self, rules: Rules, records: Iterable[Accepted[Exposure]], clicked: set[tuple[str, str]], joined: Joined
    ) -> None:
        seen: set[tuple[str, str, int]] = set()
        self._by_item: dict[tuple[str, str], list[Shown]] = {}
        self.all: list[Shown] = []
        last: dict[str, deque[ShownEntry]] = {}
        for offset, _, event in records:
            if (key := (event.user_id, event.request_id, event.ts_ms)) in seen:
                joined.repeats["exposures"] += 1
                continue
            seen.add(key)
            shown = (event.ts_ms, offset, event)
            self.all.append(shown)
            for item in set(event.items):
                if (event.user_id, item) in clicked:
                    self._by_item.setdefault((event.user_id, item), []).append(shown)
            entries = last.setdefault(event.user_id, deque(maxlen=rules.shown_exposures))
            entries.append(ShownEntry(offset, event.ts_ms, event.items))
        for rows in self._by_item.values():
            rows.sort(key=_time_order)
        self.last = {user: list(entries) for user, entries in last.items()}

    def near(self, click: Click, rules: Rules) -> list[Shown]:
        """Those that a click may match by user, request, item and time, in time order."""
        rows = self._by_item.get((click.user_id, click.item_id), [])
        earliest_ms = click.ts_ms - rules.window_ms
        latest_ms = click.ts_ms + (0 if click.request_id is None else rules.lateness_ms)
        part = rows[bisect_left(rows, earliest_ms, key=_ts_of) : bisect_right(rows, latest_ms, key=_ts_of)]
        return part if click.request_id is None else [row for row in part if row[2].request_id == click.request_id]


def _ts_of(shown: Shown) -> int:
    return shown[0]


def _time_order(shown: Shown) -> tuple[int, int]:
    return shown[:2]


class _Rings:
    """Last 4 L taken clicks of each user, by offset."""

    def __init__(self, length: int) -> None:
        self._length = length
        self.by_user: dict[str, deque[RingEntry]] = {}

    def take(self, offset: int, click: Click) -> None:
        """Let a valid click in, unless the ring holds an exact repeat of it."""
        ring = self.by_user.setdefault(click.user_id, deque(maxlen=4 * self._length))
        entry = RingEntry(offset, click.item_id, click.ts_ms, click.action, click.request_id)
        if not any(_content(old) == _content(entry) for old in ring):
            ring.append(entry)

    def history(self, user: str, before_ms: int) -> list[HistoryEntry]:
        """Entries with ts strictly before: the newest L by (ts, offset), oldest first."""
        known = [e for e in self.by_user.get(user, ()) if e.ts_ms < before_ms]
        known.sort(key=lambda e: (e.ts_ms, e.offset))
        return [HistoryEntry(e.item_id, e.ts_ms, e.action) for e in known[-self._length :]]


def _content(entry: RingEntry) -> tuple[str, int, str, str | None]:
    return entry.item_id, entry.ts_ms, entry.action, entry.request_id


def _find(rules: Rules, times: Times, exposures: _Exposures, record: Accepted[Click]) -> Shown | str:
    """Exposure that a click matches; else `orphan`, `closed_while_idle`, or `undecided`."""
    offset, _, click = record
    without_id = click.request_id is None
    due_ms = click.ts_ms if without_id else click.ts_ms + rules.lateness_ms
    advance = times.after_click(offset, due_ms)
    decided = advance is not None or (times.exposures_ms if without_id else times.both_ms) > due_ms
    if without_id and not decided:
        return "undecided"
    found = [
        row
        for row in exposures.near(click, rules)
        if (advance is None or row[1] < advance.exposures_position) and not _forgotten(rules, times, row, offset)
    ]
    if not found:
        return "orphan" if decided else "undecided"
    best = found[-1] if without_id else min(found, key=lambda row: row[1])
    closed = times.after_exposure(best[1], best[0] + rules.window_ms, before_click=offset)
    return "closed_while_idle" if closed else best


def _forgotten(rules: Rules, times: Times, row: Shown, click_offset: int) -> bool:
    """Whether an exposure was forgotten before a click was read (only advances can: else the click is late)."""
    over_ms = row[0] + rules.window_ms + rules.lateness_ms
    return times.after_exposure(row[1], over_ms, before_click=click_offset, seen_ms=row[0])


def join_users(
    rules: Rules, times: Times, exposures: Iterable[Accepted[Exposure]], clicks: Iterable[Accepted[Click]]
) -> Joined:
    """Join the accepted records of some users, each log in offset order."""
    joined = Joined(times.ref_ms)
    clicks = list(clicks)
    clicked = {(click.event.user_id, click.event.item_id) for click in clicks}
    shown = _Exposures(rules, () if rules.clicks_only else exposures, clicked, joined)
    rings = _Rings(rules.history_length)
    if rules.clicks_only:
        _each_click_a_sample(rules, rings, clicks, joined)
    else:
        actions = _match_clicks(rules, times, shown, rings, clicks, joined)
        _close(rules, times, shown, actions, joined)
    for user in rings.by_user.keys() | shown.last.keys():
        history = History(list(rings.by_user.get(user, ())), shown.last.get(user, []))
        if history != History([]):  # shown_exposures may be 0
            joined.histories[user] = history
    return joined


def _match_clicks(
    rules: Rules,
    times: Times,
    shown: _Exposures,
    rings: _Rings,
    clicks: Iterable[Accepted[Click]],
    joined: Joined,
) -> dict[tuple[int, str], set[str]]:
    """Decide every click in offset order; gives the actions on each (exposure offset, item)."""
    actions: dict[tuple[int, str], set[str]] = {}
    undecided_ms: dict[tuple[str, str], list[int]] = {}  # ts of undecided id-less clicks by (user, item)
    for record in clicks:
        offset, _, click = record
        match _find(rules, times, shown, record):
            case "undecided":
                joined.undecided.append(offset)
                if click.request_id is None:
                    undecided_ms.setdefault((click.user_id, click.item_id), []).append(click.ts_ms)
            case str(reason):
                joined.dead_letters.append(("clicks", offset, reason))
            case (ts_ms, exposure_offset, exposure):
                before = undecided_ms.get((click.user_id, click.item_id), ())
                done = actions.setdefault((exposure_offset, click.item_id), set())
                if any(0 <= earlier_ms - ts_ms <= rules.window_ms for earlier_ms in before):
                    joined.waiting.append(offset)
                elif click.action in done:
                    joined.repeats["clicks"] += 1
                else:
                    if not done:
                        _add_sample(rules, joined, exposure, exposure_offset, record, rings)
                    done.add(click.action)
        rings.take(offset, click)
    return actions


def _add_sample(
    rules: Rules, joined: Joined, exposure: Exposure, exposure_offset: int, record: Accepted[Click], rings: _Rings
) -> None:
    offset, arrival_ms, click = record
    sample = Sample(
        click.user_id,
        exposure.request_id,
        exposure.ts_ms,
        click.item_id,
        click.ts_ms,
        click.action,
        exposure.items.index(click.item_id),
        rings.history(click.user_id, exposure.ts_ms),
        exposure.context,
        arrival_ms,
        exposure_offset,
        offset,
    )
    joined.samples[id_of(sample)] = sample
    _count_click(rules, joined, click)


def _close(
    rules: Rules, times: Times, shown: _Exposures, actions: dict[tuple[int, str], set[str]], joined: Joined
) -> None:
    """Count every accepted exposure; give the outcome of those whose window has closed."""
    for ts_ms, offset, event in shown.all:
        weight = _weight(rules, joined, ts_ms)
        for item in event.items:
            count = joined.popularity.setdefault(item, Count())
            count.exposures += 1
            count.decayed_exposures += weight
        end_ms = ts_ms + rules.window_ms
        if times.both_ms > end_ms or times.after_exposure(offset, end_ms):
            scores = [ItemScore(item, len(actions.get((offset, item), ()))) for item in event.items]
            joined.outcomes[offset] = Outcome(event.user_id, event.request_id, ts_ms, scores, offset, event.context)


def _each_click_a_sample(rules: Rules, rings: _Rings, clicks: Iterable[Accepted[Click]], joined: Joined) -> None:
    for offset, arrival_ms, click in clicks:
        sample = Sample(
            click.user_id,
            "",
            click.ts_ms,
            click.item_id,
            click.ts_ms,
            click.action,
            -1,
            rings.history(click.user_id, click.ts_ms),
            click.context,
            arrival_ms,
            -1,
            offset,
        )
        if id_of(sample) in joined.samples:
            joined.repeats["clicks"] += 1
        else:
            joined.samples[id_of(sample)] = sample
            _count_click(rules, joined, click)
        rings.take(offset, click)


def id_of(sample: Sample) -> SampleId:
    """Identity of a sample."""
    return sample.user_id, sample.request_id, sample.exposure_ts_ms, sample.item_id


def _count_click(rules: Rules, joined: Joined, click: Click) -> None:
    count = joined.popularity.setdefault(click.item_id, Count())
    count.clicks += 1
    count.decayed_clicks += _weight(rules, joined, click.ts_ms)


def _weight(rules: Rules, joined: Joined, ts_ms: int) -> float:
    """Forward decay (Cormode et al. 2009): what one event at ts_ms counts as of `ref_ms`."""
    return float(2.0 ** ((ts_ms - joined.ref_ms) / rules.half_life_ms))


def join_partition(
    rules: Rules,
    exposures: Iterable[Record[Exposure]],
    clicks: Iterable[Record[Click]],
    advances: Sequence[Advance] = (),
) -> Joined:
    """Join both logs of one partition number as a whole, in memory."""
    exposure_log = Log(a.exposures_position for a in advances)
    click_log = Log(a.clicks_position for a in advances)
    refused: list[tuple[str, int, str]] = []
    kept_exposures = list(
        judge(
            rules,
            exposure_log,
            () if rules.clicks_only else exposures,
            lambda offset, reason: refused.append(("exposures", offset, reason)),
        )
    )
    kept_clicks = list(
        judge(rules, click_log, clicks, lambda offset, reason: refused.append(("clicks", offset, reason)))
    )
    joined = join_users(rules, Times(rules, exposure_log, click_log, advances), kept_exposures, kept_clicks)
    joined.dead_letters += refused
    return joined
