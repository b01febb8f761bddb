"""The law of JOIN.md by brute force: two lists, every pair tried, no index. What the offline join is compared with.

Adapted from the prototype whose verdicts were compared with a streaming core over half a million random logs. Records
are plain rows; `offsets` gives the Kafka offset of each index, so that logs may have gaps.
"""

import random
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

from contract.messages import Advance, Click, Exposure
from headrace.offline_join import Joined
from headrace.offline_times import Record, Rules

NEG = float("-inf")


@dataclass(frozen=True, slots=True)
class Row:
    """A record of either log; `items` of an exposure, `item` and `action` of a click."""

    ts: int
    arrival: int
    user: str
    request: str | None
    items: tuple[str, ...] = ()
    item: str = ""
    action: str = "click"
    broken: bool = False


@dataclass(slots=True)
class Case:
    """Two logs with the offsets of their rows, and idle advances in terms of indexes."""

    exposures: list[Row]
    clicks: list[Row]
    advances: list[tuple[int, int, int]] = field(default_factory=list)
    exposure_offsets: list[int] = field(default_factory=list)
    click_offsets: list[int] = field(default_factory=list)


def prefix(log: list[Row], rules: Rules) -> tuple[list[str], float]:
    """Verdict at the door of each row, and the largest ts that passed it."""
    newest: float = NEG
    found = []
    for row in log:
        if row.broken:
            found.append("broken")
        elif row.ts > row.arrival + rules.max_skew_ms:
            found.append("ahead")
        else:
            found.append("late" if row.ts < newest - rules.lateness_ms else "ok")
            newest = max(newest, row.ts)
    return found, newest


def brute(case: Case, rules: Rules) -> dict[str, Any]:  # noqa: C901, PLR0912, PLR0915  (one text beside JOIN.md)
    """Everything the join decides, as plain tuples with indexes for offsets."""
    xlog, clog, advances = case.exposures, case.clicks, case.advances
    window, lateness, length = rules.window_ms, rules.lateness_ms, rules.history_length
    vx, mx = prefix(xlog, rules)
    vc, mc = prefix(clog, rules)
    wx, both = mx - lateness, min(mx, mc) - lateness
    dead = [("exposures", i, v) for i, v in enumerate(vx) if v != "ok"]
    dead += [("clicks", i, v) for i, v in enumerate(vc) if v != "ok"]
    accepted: list[int] = []
    seen: set[Any] = set()
    shown: dict[str, list[int]] = {}
    for i, row in enumerate(xlog):
        if vx[i] == "ok" and (row.user, row.request, row.ts) not in seen:
            seen.add((row.user, row.request, row.ts))
            accepted.append(i)
            shown.setdefault(row.user, []).append(i)
    counts: dict[str, list[int]] = {}
    for i in accepted:
        for item in xlog[i].items:
            counts.setdefault(item, [0, 0])[0] += 1
    rings: dict[str, list[Any]] = {}
    before: dict[int, list[Any]] = {}
    for i, row in enumerate(clog):
        if vc[i] == "ok":
            ring = rings.setdefault(row.user, [])
            before[i] = ring[-4 * length :]
            entry = (row.item, row.ts, row.action, row.request)
            if entry not in [z[1:] for z in before[i]]:
                ring.append((i, *entry))

    def closed_before(e: int, c: int) -> bool:
        return any(e < a[0] and a[1] <= c and a[2] > xlog[e].ts + window for a in advances)

    def forgotten_before(e: int, c: int) -> bool:
        return any(
            e < a[0]
            and a[1] <= c
            and a[2] > xlog[e].ts + window + lateness
            and prefix(xlog[: a[0]], rules)[1] - lateness > xlog[e].ts
            for a in advances
        )

    match: dict[int, int] = {}
    undecided = []
    for c, row in enumerate(clog):
        if vc[c] != "ok":
            continue
        idless = row.request is None
        over = row.ts if idless else row.ts + lateness
        star = next((a for a in advances if a[1] > c and a[2] > over), None)
        found = []
        for e in accepted:
            x = xlog[e]
            d = row.ts - x.ts
            fits = 0 <= d <= window if idless else x.request == row.request and -lateness <= d <= window
            if x.user != row.user or row.item not in x.items or not fits:
                continue
            if (star is None or e < star[0]) and not forgotten_before(e, c):
                found.append(e)
        decided = star is not None or (wx > row.ts if idless else both > row.ts + lateness)
        if (idless and not decided) or not (found or decided):
            undecided.append(c)
        elif not found:
            dead.append(("clicks", c, "orphan"))
        else:
            e = max(found, key=lambda e: (xlog[e].ts, e)) if idless else min(found)
            if closed_before(e, c):
                dead.append(("clicks", c, "closed_while_idle"))
            else:
                match[c] = e
    samples = []
    waiting = []
    actions: dict[Any, list[str]] = {}
    for c, e in sorted(match.items()):
        row, x = clog[c], xlog[e]
        if any(
            u < c
            and clog[u].request is None
            and (clog[u].user, clog[u].item) == (row.user, row.item)
            and 0 <= clog[u].ts - x.ts <= window
            for u in undecided
        ):
            waiting.append(c)
            continue
        done = actions.setdefault((e, row.item), [])
        if row.action in done:
            continue
        if not done:
            old = sorted([z for z in before[c] if z[2] < x.ts], key=lambda z: (z[2], z[0]))[-length:]
            history = tuple(z[1:4] for z in old)
            place = x.items.index(row.item)
            samples.append((row.user, x.request, x.ts, row.item, row.ts, row.action, place, history, row.arrival, e, c))
            counts.setdefault(row.item, [0, 0])[1] += 1
        done.append(row.action)
    outcomes = []
    for e in accepted:
        x = xlog[e]
        if both > x.ts + window or any(e < a[0] and a[2] > x.ts + window for a in advances):
            outcomes.append((e, x.user, x.request, x.ts, tuple((i, len(actions.get((e, i), []))) for i in x.items)))
    shown = {u: seq[max(0, len(seq) - rules.shown_exposures) :] for u, seq in shown.items()}
    rings = {u: ring[-4 * length :] for u, ring in rings.items()}
    return {
        "samples": sorted(samples, key=repr),
        "outcomes": sorted(outcomes),
        "dead": sorted(dead),
        "counts": {item: tuple(n) for item, n in counts.items()},
        "histories": {
            u: (tuple(rings.get(u, [])), tuple((i, xlog[i].ts, xlog[i].items) for i in shown.get(u, [])))
            for u in rings.keys() | shown.keys()
            if rings.get(u) or shown.get(u)
        },
        "undecided": sorted(undecided),
        "waiting": sorted(waiting),
    }


def brute_clicks_only(case: Case, rules: Rules) -> dict[str, Any]:
    """The same for click-only mode."""
    length = rules.history_length
    verdicts, _ = prefix(case.clicks, rules)
    dead, samples = [], []
    counts: dict[str, tuple[int, int]] = {}
    seen = set()
    rings: dict[str, list[Any]] = {}
    for c, row in enumerate(case.clicks):
        if verdicts[c] != "ok":
            dead.append(("clicks", c, verdicts[c]))
            continue
        ring = rings.setdefault(row.user, [])
        last = ring[-4 * length :]
        entry = (row.item, row.ts, row.action, row.request)
        if entry not in [z[1:] for z in last]:
            ring.append((c, *entry))
        if (row.user, row.item, row.ts) not in seen:
            seen.add((row.user, row.item, row.ts))
            old = sorted([z for z in last if z[2] < row.ts], key=lambda z: (z[2], z[0]))[-length:]
            history = tuple(z[1:4] for z in old)
            samples.append((row.user, "", row.ts, row.item, row.ts, row.action, -1, history, row.arrival, -1, c))
            counts[row.item] = (0, counts.get(row.item, (0, 0))[1] + 1)
    return {
        "samples": sorted(samples, key=repr),
        "outcomes": [],
        "dead": sorted(dead),
        "counts": counts,
        "histories": {u: (tuple(ring[-4 * length :]), ()) for u, ring in rings.items()},
        "undecided": [],
        "waiting": [],
    }


def flat(joined: Joined, case: Case) -> dict[str, Any]:
    """An offline join's answer in the brute form, offsets put back to indexes."""
    at_x = {offset: i for i, offset in enumerate(case.exposure_offsets)} | {-1: -1}
    at_c = {offset: i for i, offset in enumerate(case.click_offsets)}
    at = {"exposures": at_x, "clicks": at_c}
    samples = [
        (
            *(s.user_id, s.request_id, s.exposure_ts_ms, s.item_id, s.ts_ms, s.action, s.position),
            tuple((h.item_id, h.ts_ms, h.action) for h in s.history),
            *(s.arrival_ms, at_x[s.exposure_offset], at_c[s.click_offset]),
        )
        for s in joined.samples.values()
    ]
    outcomes = [
        (at_x[o.exposure_offset], o.user_id, o.request_id, o.ts_ms, tuple((i.item_id, i.score) for i in o.items))
        for o in joined.outcomes.values()
    ]
    histories = {
        user: (
            tuple((at_c[e.offset], e.item_id, e.ts_ms, e.action, e.request_id) for e in history.clicks),
            tuple((at_x[e.offset], e.ts_ms, tuple(e.items)) for e in history.shown),
        )
        for user, history in joined.histories.items()
    }
    return {
        "samples": sorted(samples, key=repr),
        "outcomes": sorted(outcomes),
        "dead": sorted((source, at[source][offset], reason) for source, offset, reason in joined.dead_letters),
        "counts": {item: (c.exposures, c.clicks) for item, c in joined.popularity.items()},
        "histories": histories,
        "undecided": sorted(at_c[offset] for offset in joined.undecided),
        "waiting": sorted(at_c[offset] for offset in joined.waiting),
    }


def exposure_records(case: Case) -> list[Record[Exposure]]:
    """The exposures as Kafka would give them."""
    return [
        Record(
            offset,
            row.arrival,
            None if row.broken else Exposure(row.request or "", row.user, row.ts, list(row.items)),
            "broken" if row.broken else "",
        )
        for offset, row in zip(case.exposure_offsets, case.exposures, strict=True)
    ]


def click_records(case: Case) -> list[Record[Click]]:
    """The clicks as Kafka would give them."""
    return [
        Record(
            offset,
            row.arrival,
            None if row.broken else Click(row.user, row.item, row.ts, row.action, row.request),  # type: ignore[arg-type]
            "broken" if row.broken else "",
        )
        for offset, row in zip(case.click_offsets, case.clicks, strict=True)
    ]


def advances_of(case: Case) -> list[Advance]:
    """The advances with positions in terms of offsets: the next one to read, anywhere in a gap before it."""

    def position(offsets: list[int], index: int) -> int:
        return offsets[index - 1] + 1 if index else 0

    return [
        Advance(position(case.exposure_offsets, x), position(case.click_offsets, c), w, "both")
        for x, c, w in case.advances
    ]


def draw_case(rnd: random.Random, rules: Rules) -> Case:
    """A small random case: drifting clocks, jumps, few users and items, repeats, broken rows, idle advances, gaps."""
    users, requests = ("u" if rnd.random() < 0.6 else "uv"), ("p" if rnd.random() < 0.4 else "pq")
    jump, idless = rnd.random() < 0.3, rnd.choice([0, 0.3, 0.8])

    def times(count: int, at: int) -> list[int]:
        drawn = []
        for _ in range(count):
            at += rnd.choice([0, 0, 1, 1, 2, 3, 4, 5, 10, 14] if rnd.random() < 0.5 else [0, 0, 1])
            if jump and rnd.random() < 0.08:
                at += rnd.choice([20, 24, 50, 1000])
            drawn.append(at - rnd.choice([0, 0, 0, 1, 2, 3, 4, 4, 5]))
        return drawn

    def row(ts: int, **more: Any) -> Row:
        arrival = ts + rnd.choice([0, 1, 3, -2] if rnd.random() < 0.93 else [-3, -40])
        return Row(ts, arrival, rnd.choice(users), broken=rnd.random() < 0.03, **more)

    shown = [("a",), ("a", "b"), ("b",), ("b", "a", "b")]
    exposures = [
        row(ts, request=rnd.choice(requests), items=rnd.choice(shown))
        for ts in times(rnd.randint(0, 9), rnd.choice([0, 0, 3, 10]))
    ]
    clicks = [
        row(
            ts,
            request=None if rnd.random() < idless else rnd.choice(requests),
            item=rnd.choice("aab"),
            action=rnd.choice(["click", "click", "like", "share"]),
        )
        for ts in times(rnd.randint(0, 12), rnd.choice([0, 0, 4, 10]))
    ]
    for log in (exposures, clicks):
        for _ in range(2):
            if log and rnd.random() < 0.3:
                log.insert(rnd.randrange(len(log) + 1), rnd.choice(log))
    case = Case(exposures, clicks)
    case.advances = _draw_advances(rnd, case, rules)
    case.exposure_offsets = _draw_offsets(rnd, len(exposures))
    case.click_offsets = _draw_offsets(rnd, len(clicks))
    return case


def _draw_advances(rnd: random.Random, case: Case, rules: Rules) -> list[tuple[int, int, int]]:
    """What an idle input makes along a random interleaving of both logs."""
    weights = rnd.choice([[6, 6, 1, 1, 1], [6, 6, 0, 0, 0], [3, 3, 1, 1, 2], [8, 2, 0, 3, 1], [2, 8, 3, 0, 1]])
    x = c = 0
    made = []
    for step in rnd.choices(["x", "c", "idle x", "idle c", "idle both"], weights, k=rnd.randint(5, 45)):
        mx, mc = prefix(case.exposures[:x], rules)[1], prefix(case.clicks[:c], rules)[1]
        w = {"idle x": mc - rules.lateness_ms, "idle c": mx - rules.lateness_ms, "idle both": max(mx, mc) + 1}.get(step)
        if step == "x":
            x = min(x + 1, len(case.exposures))
        elif step == "c":
            c = min(c + 1, len(case.clicks))
        elif w is not None and w > NEG:
            made.append((x, c, int(w)))
    return made


def _draw_offsets(rnd: random.Random, count: int) -> list[int]:
    gaps = rnd.random() < 0.5
    at, drawn = 0, []
    for _ in range(count):
        at += rnd.choice([0, 0, 1, 5]) if gaps else 0
        drawn.append(at)
        at += 1
    if any(b <= a for a, b in pairwise(drawn)):
        raise AssertionError(drawn)
    return drawn


def smaller(case: Case, fails: Any) -> Case:
    """The case with everything taken out that it does not need to fail."""
    changed = True
    while changed:
        changed = False
        for name in ("exposures", "clicks", "advances"):
            for i in reversed(range(len(getattr(case, name)))):
                cut = replace(case, **{name: getattr(case, name)[:i] + getattr(case, name)[i + 1 :]})
                cut.exposure_offsets = list(range(len(cut.exposures)))
                cut.click_offsets = list(range(len(cut.clicks)))
                if name == "exposures":
                    cut.advances = [(x - (x > i), c, w) for x, c, w in cut.advances]
                if name == "clicks":
                    cut.advances = [(x, c - (c > i), w) for x, c, w in cut.advances]
                if fails(cut):
                    case, changed = cut, True
    return case
