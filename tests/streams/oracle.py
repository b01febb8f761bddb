"""The join by brute force over two whole logs and their recorded idle advances: written first, kept slow on purpose.

The third writing of JOIN.md, beside the streaming core and `headrace/offline_join.py`: lists, scans and no state.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from contract.messages import (
    Advance,
    Click,
    Exposure,
    HistoryEntry,
    ItemScore,
    Outcome,
    RingEntry,
    Sample,
    ShownEntry,
)
from streams.join import Record, Rules

NEVER = -(1 << 62)
Log = Sequence[Record]


@dataclass
class Result:
    """Everything that a join gives, in an order of its own, fit for ==."""

    samples: list[Sample] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    dead_letters: list[tuple[str, int, str]] = field(default_factory=list)
    rings: dict[str, list[RingEntry]] = field(default_factory=dict)
    shown: dict[str, list[ShownEntry]] = field(default_factory=dict)
    counts: dict[str, tuple[int, int]] = field(default_factory=dict)
    decayed: dict[str, tuple[float, float, int]] = field(default_factory=dict)  # as of the item's newest ts
    totals: dict[str, int] = field(default_factory=dict)
    undecided: list[int] = field(default_factory=list)
    waiting: list[int] = field(default_factory=list)

    def finish(self, rules: Rules, exposures: int, clicks: int, repeats: Counter[str]) -> "Result":
        """Bring everything into order and add the totals."""
        self.samples.sort(key=lambda s: s.click_offset)
        self.outcomes.sort(key=lambda o: o.exposure_offset)
        self.dead_letters.sort()
        self.totals = {
            "exposures": 0 if rules.clicks_only else exposures,
            "clicks": clicks,
            "samples": len(self.samples),
            "outcomes": len(self.outcomes),
            "dead_letters": len(self.dead_letters),
            "exposure_repeats": repeats["exposures"],
            "click_repeats": repeats["clicks"],
        }
        return self


def newest(log: Log, rules: Rules, below: int | None = None) -> int:
    """M of the records below an offset."""
    read = [r for r in log if below is None or r.offset < below]
    return max((r.event.ts_ms for r in read if r.event is not None and _passes(r, rules)), default=NEVER)


def _passes(record: Record, rules: Rules) -> bool:
    return record.event is not None and record.event.ts_ms <= record.arrival_ms + rules.max_skew_ms


def verdicts(log: Log, rules: Rules) -> dict[int, str]:
    """Verdict of each record's own prefix by offset: `ok`, or why it is a dead letter."""
    found = {}
    for record in log:
        if record.event is None:
            found[record.offset] = record.reason
        elif not _passes(record, rules):
            found[record.offset] = "ahead"
        else:
            late = record.event.ts_ms < newest(log, rules, record.offset) - rules.lateness_ms
            found[record.offset] = "late" if late else "ok"
    return found


def _content(entry: RingEntry) -> tuple[object, ...]:
    return entry.item_id, entry.ts_ms, entry.action, entry.request_id


class _Rings:
    """Rings of all users, and how each stood before each click."""

    def __init__(self, rules: Rules, clicks: dict[int, Click]) -> None:
        self.before: dict[int, list[RingEntry]] = {}
        taken: dict[str, list[RingEntry]] = {}
        self._length = rules.history_length
        for offset, click in clicks.items():
            ring = taken.setdefault(click.user_id, [])
            self.before[offset] = ring[-4 * self._length :]
            entry = RingEntry(offset, click.item_id, click.ts_ms, click.action, click.request_id)
            if _content(entry) not in map(_content, self.before[offset]):
                ring.append(entry)
        self.last = {user: ring[-4 * self._length :] for user, ring in taken.items()}

    def history(self, offset: int, ts_ms: int) -> list[HistoryEntry]:
        earlier = sorted((e for e in self.before[offset] if e.ts_ms < ts_ms), key=lambda e: (e.ts_ms, e.offset))
        return [HistoryEntry(e.item_id, e.ts_ms, e.action) for e in earlier[-self._length :]]


class _Popularity:
    """Every counted event, summed at the end."""

    def __init__(self) -> None:
        self._events: dict[str, list[tuple[int, bool]]] = {}

    def count(self, item: str, ts_ms: int, *, click: bool) -> None:
        self._events.setdefault(item, []).append((ts_ms, click))

    def fill(self, result: Result, half_life_ms: int) -> None:
        for item, events in self._events.items():
            ref = max(ts for ts, _ in events)
            weights: tuple[list[float], list[float]] = ([], [])
            for ts, click in events:
                weights[click].append(2.0 ** ((ts - ref) / half_life_ms))
            result.counts[item] = (len(weights[0]), len(weights[1]))
            result.decayed[item] = (sum(weights[0]), sum(weights[1]), ref)


def join(exposure_log: Log, click_log: Log, advances: Sequence[Advance], rules: Rules) -> Result:  # noqa: C901, PLR0912, PLR0915  (one long, plain reading of the law is the point)
    """Give what streams must have produced, were both logs read to their ends."""
    window, lateness = rules.window_ms, rules.lateness_ms
    result, repeats, popularity = Result(), Counter[str](), _Popularity()
    of_exposures, of_clicks = verdicts(exposure_log, rules), verdicts(click_log, rules)
    w_exposures = newest(exposure_log, rules) - lateness
    w = min(w_exposures, newest(click_log, rules) - lateness)
    for source, judged in (("exposures", of_exposures), ("clicks", of_clicks)):
        result.dead_letters += [(source, offset, reason) for offset, reason in judged.items() if reason != "ok"]

    exposures: dict[int, Exposure] = {}
    for record in exposure_log:
        event = record.event
        if of_exposures[record.offset] != "ok" or not isinstance(event, Exposure):
            continue
        if any(
            (e.user_id, e.request_id, e.ts_ms) == (event.user_id, event.request_id, event.ts_ms)
            for e in exposures.values()
        ):
            repeats["exposures"] += 1
            continue
        exposures[record.offset] = event
        if rules.shown_exposures:
            shown = [*result.shown.get(event.user_id, []), ShownEntry(record.offset, event.ts_ms, event.items)]
            result.shown[event.user_id] = shown[-rules.shown_exposures :]
        for item in event.items:
            popularity.count(item, event.ts_ms, click=False)

    clicks = {r.offset: r.event for r in click_log if of_clicks[r.offset] == "ok" and isinstance(r.event, Click)}
    arrivals = {r.offset: r.arrival_ms for r in click_log}
    rings = _Rings(rules, clicks)
    result.rings = rings.last

    def between(exposure: int, click: int, holds: Callable[[Advance], bool]) -> bool:
        """Whether an advance of some kind was made after an exposure was read and before a click was."""
        return any(exposure < a.exposures_position and a.clicks_position <= click and holds(a) for a in advances)

    def forgotten(offset: int, click: int) -> bool:
        ts = exposures[offset].ts_ms
        return between(
            offset,
            click,
            lambda a: (
                a.w_ms > ts + window + lateness and newest(exposure_log, rules, a.exposures_position) - lateness > ts
            ),
        )

    def candidates(offset: int, click: Click, below: int | None) -> list[int]:
        return [
            x
            for x, e in exposures.items()
            if e.user_id == click.user_id
            and click.item_id in e.items
            and (below is None or x < below)
            and (-lateness if click.request_id else 0) <= click.ts_ms - e.ts_ms <= window
            and click.request_id in (None, e.request_id)
            and not forgotten(x, offset)
        ]

    matched: dict[int, int] = {}
    undecided: list[int] = []
    for offset, click in clicks.items():
        without_id = click.request_id is None
        due = click.ts_ms if without_id else click.ts_ms + lateness
        advance = next((a for a in advances if a.clicks_position > offset and a.w_ms > due), None)
        decided = advance is not None or (w_exposures if without_id else w) > due
        found = candidates(offset, click, advance.exposures_position if advance else None)
        if without_id and not decided:
            undecided.append(offset)
        elif found:
            best = max(found, key=lambda x: (exposures[x].ts_ms, x)) if without_id else min(found)
            end = exposures[best].ts_ms + window
            if between(best, offset, lambda a: a.w_ms > end):  # noqa: B023  (called at once)
                result.dead_letters.append(("clicks", offset, "closed_while_idle"))
            else:
                matched[offset] = best
        elif decided:
            result.dead_letters.append(("clicks", offset, "orphan"))
        else:
            undecided.append(offset)
    result.undecided = undecided

    actions: dict[tuple[int, str], list[str]] = {}
    for offset, x in sorted(matched.items()):
        click, exposure = clicks[offset], exposures[x]
        if any(
            u < offset
            and clicks[u].request_id is None
            and (clicks[u].user_id, clicks[u].item_id) == (click.user_id, click.item_id)
            and 0 <= clicks[u].ts_ms - exposure.ts_ms <= window
            for u in undecided
        ):
            result.waiting.append(offset)
            continue
        done = actions.setdefault((x, click.item_id), [])
        if click.action in done:
            repeats["clicks"] += 1
            continue
        if not done:
            result.samples.append(
                Sample(
                    click.user_id,
                    exposure.request_id,
                    exposure.ts_ms,
                    click.item_id,
                    click.ts_ms,
                    click.action,
                    exposure.items.index(click.item_id),
                    rings.history(offset, exposure.ts_ms),
                    exposure.context,
                    arrivals[offset],
                    x,
                    offset,
                )
            )
            popularity.count(click.item_id, click.ts_ms, click=True)
        done.append(click.action)

    for x, e in exposures.items():
        end = e.ts_ms + window
        if w > end or any(x < a.exposures_position and a.w_ms > end for a in advances):
            assert not any(matched[offset] == x for offset in result.waiting), "closed before its click was decided"
            scores = [ItemScore(item, len(actions.get((x, item), []))) for item in e.items]
            result.outcomes.append(Outcome(e.user_id, e.request_id, e.ts_ms, scores, x, e.context))
    popularity.fill(result, rules.half_life_ms)
    return result.finish(rules, len(exposure_log), len(click_log), repeats)


def join_clicks_only(click_log: Log, rules: Rules) -> Result:
    """Do the same in click-only mode."""
    result, repeats, popularity = Result(), Counter[str](), _Popularity()
    of_clicks = verdicts(click_log, rules)
    result.dead_letters = [("clicks", offset, reason) for offset, reason in of_clicks.items() if reason != "ok"]
    clicks = {r.offset: r.event for r in click_log if of_clicks[r.offset] == "ok" and isinstance(r.event, Click)}
    arrivals = {r.offset: r.arrival_ms for r in click_log}
    rings = _Rings(rules, clicks)
    result.rings = rings.last
    seen = set()
    for offset, click in clicks.items():
        user, item, ts = name = (click.user_id, click.item_id, click.ts_ms)
        if name in seen:
            repeats["clicks"] += 1
            continue
        seen.add(name)
        history = rings.history(offset, ts)
        arrival = arrivals[offset]
        result.samples.append(
            Sample(user, "", ts, item, ts, click.action, -1, history, click.context, arrival, -1, offset)
        )
        popularity.count(item, ts, click=True)
    popularity.fill(result, rules.half_life_ms)
    return result.finish(rules, 0, len(click_log), repeats)
