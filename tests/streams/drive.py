"""Drives a Join over two logs as a worker would: any interleaving, transactions, idle advances, crashes, deletions.

A plan is a list of steps:

    x  c  x3  c3    read one (three) records of exposures, clicks        ex  ec    the end of the partition was seen
    ix  ic  ixc     exposures, clicks, both are idle                     commit    take and commit
    crash           lose what was not committed; rebuild in silence      forget:U  delete user U
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from contract.messages import Advance, Click, Exposure, History, Outcome, Popularity, Sample
from streams.join import Batch, Commit, DeadLetter, Join, Record, Rules, Source, needed_from
from tests.streams.oracle import Result

EXPOSURES: Source = "exposures"
CLICKS: Source = "clicks"


@dataclass
class World:
    """Two logs of one partition number, in offset order, perhaps with gaps."""

    exposures: list[Record]
    clicks: list[Record]

    def log(self, source: Source) -> list[Record]:
        return self.exposures if source == EXPOSURES else self.clicks


@dataclass
class Topics:
    """What was committed: the derived topics, compacted where they are, and the group's offsets."""

    samples: list[Sample] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    dead_letters: list[DeadLetter] = field(default_factory=list)
    histories: dict[str, History] = field(default_factory=dict)
    popularity: dict[str, Popularity] = field(default_factory=dict)
    advances: list[Advance] = field(default_factory=list)
    commit: Commit | None = None

    def apply(self, batch: Batch, commit: Commit) -> None:
        """One transaction."""
        self.samples += batch.samples
        self.outcomes += batch.outcomes
        self.dead_letters += batch.dead_letters
        for user, history in batch.histories.items():
            if history is None:
                self.histories.pop(user, None)
            else:
                self.histories[user] = history
        self.popularity.update(batch.popularity)
        if batch.marker:
            self.advances += batch.marker.advances
        self.commit = commit
        assert len(commit.exposures_metadata) <= 4095
        assert len(commit.clicks_metadata) <= 4095


class Worker:
    """A join, where it is in the logs, and what it has committed."""

    def __init__(self, rules: Rules, world: World) -> None:
        self.rules, self.world = rules, world
        self.topics = Topics()
        self.join = Join(rules)
        self.at = {EXPOSURES: 0, CLICKS: 0}  # places in the lists

    def read(self, source: Source, count: int = 1) -> None:
        log = self.world.log(source)
        for record in log[self.at[source] : self.at[source] + count]:
            feed(self.join, source, record)
            self.at[source] += 1

    def end(self, source: Source) -> None:
        """See the end of the partition, if nothing is unread: perhaps past a transaction marker."""
        log = self.world.log(source)
        if log and self.at[source] == len(log):
            self.join.end_of_partition(source, log[-1].offset + 2)

    def commit(self) -> None:
        batch = self.join.take()
        self.topics.apply(batch, self.join.commit())

    def crash(self) -> None:
        self.join = self.rebuilt()
        for source, position in zip((EXPOSURES, CLICKS), self._committed(), strict=True):
            self.at[source] = sum(record.offset < position for record in self.world.log(source))

    def _committed(self) -> tuple[int, int]:
        commit = self.topics.commit
        return (commit.exposures_position, commit.clicks_position) if commit else (0, 0)

    def rebuilt(self) -> Join:
        """Build another join from what was committed."""
        topics = self.topics
        needed = needed_from(topics.commit) if topics.commit else (0, 0)
        spans = [
            [r for r in self.world.log(source) if start <= r.offset < end]
            for source, start, end in zip((EXPOSURES, CLICKS), needed, self._committed(), strict=True)
        ]
        return Join.rebuild(
            self.rules,
            topics.commit,
            iter(spans[0]),
            iter(spans[1]),
            topics.histories.items(),
            topics.popularity.items(),
        )

    def do(self, step: str) -> None:
        match step:
            case "commit":
                self.commit()
            case "crash":
                self.crash()
            case "ix" | "ic" | "ixc":
                self.join.idle(exposures="x" in step, clicks="c" in step)
            case "ex" | "ec":
                self.end(EXPOSURES if step == "ex" else CLICKS)
            case _ if step.startswith("forget:"):
                self.join.forget_user(step.removeprefix("forget:"))
            case _:
                self.read(EXPOSURES if step[0] == "x" else CLICKS, int(step[1:] or 1))

    def finish(self) -> None:
        """Read both logs to their ends, taking turns, and commit."""
        while any(self.at[source] < len(self.world.log(source)) for source in (EXPOSURES, CLICKS)):
            self.read(EXPOSURES)
            self.read(CLICKS)
        self.commit()


def feed(join: Join, source: Source, record: Record) -> None:
    """Give one record to the core as the edge does."""
    offset, arrival, event, reason, text, raw = record
    if event is None:
        join.refuse(source, offset, reason, text, raw)
    elif isinstance(event, Exposure):
        join.exposure(offset, arrival, event, raw)
    else:
        join.click(offset, arrival, event, raw)


def run(rules: Rules, world: World, plan: Sequence[str]) -> Worker:
    """Follow a plan from an empty namespace, then to the ends of both logs."""
    worker = Worker(rules, world)
    worker.commit()
    for step in plan:
        worker.do(step)
    worker.finish()
    return worker


def replay(rules: Rules, world: World, advances: Sequence[Advance], seed: int) -> Worker:
    """Read the logs in another interleaving, with the advances that were recorded, in one transaction."""
    rnd, worker = random.Random(seed), Worker(rules, world)

    def upto(ends: tuple[int, int]) -> None:
        while True:
            unread = [s for s, end in zip((EXPOSURES, CLICKS), ends, strict=True) if _next(worker, s) < end]
            if not unread:
                return
            worker.read(unread[0] if seed == 0 else unread[-1] if seed == 1 else rnd.choice(unread))

    for advance in advances:
        upto((advance.exposures_position, advance.clicks_position))
        worker.join.end_of_partition(EXPOSURES, advance.exposures_position)
        worker.join.end_of_partition(CLICKS, advance.clicks_position)
        worker.join._apply(advance)
    worker.finish()
    return worker


def _next(worker: Worker, source: Source) -> int:
    log, at = worker.world.log(source), worker.at[source]
    return log[at].offset if at < len(log) else 1 << 62


def result_of(worker: Worker) -> Result:
    """Bring what a worker has committed into the oracle's form."""
    topics, join, rules = worker.topics, worker.join, worker.rules
    held = list(join._held._held.values())
    capacity = 4 * rules.history_length
    for letter in topics.dead_letters:
        assert letter.raw == f"{letter.source}-{letter.offset}"
    return Result(
        samples=sorted(topics.samples, key=lambda s: s.click_offset),
        outcomes=sorted(topics.outcomes, key=lambda o: o.exposure_offset),
        dead_letters=sorted((d.source, d.offset, d.reason) for d in topics.dead_letters),
        rings={u: h.clicks[-capacity:] for u, h in topics.histories.items() if h.clicks},
        shown={u: h.shown for u, h in topics.histories.items() if h.shown},
        counts={item: (p.exposures, p.clicks) for item, p in topics.popularity.items()},
        decayed={i: (p.decayed_exposures, p.decayed_clicks, p.ref_ms) for i, p in topics.popularity.items()},
        totals=dict(join.totals),
        undecided=sorted(c.offset for c in held if c.exposure is None),
        waiting=sorted(c.offset for c in held if c.exposure is not None),
    )


def state_of(join: Join) -> dict[str, Any]:
    """Everything by which a join decides, explicitly; equal states behave equally for ever."""
    exposures, held, histories = join._exposures, join._held, join._output.histories
    remembered = join._clicks_only
    return {
        "positions": (join._next_exposure, join._next_click),
        "m": (join._m_exposures, join._m_clicks),
        "totals": dict(join.totals),
        "exposures": [
            (
                e.offset,
                e.user,
                e.request,
                e.ts_ms,
                e.items,
                e.before_ms,
                e.open,
                e.known,
                e.open and (e.context, e.masks),
            )
            for e in exposures._kept.values()
        ],
        "lowest": [(e.offset, e.low, e.low_before_ms) for e in exposures._kept.values() if e.open],
        "requests": {key: [e.offset for e in group] for key, group in exposures._requests.items()},
        "to_close": sorted(entry[:2] for entry in exposures.to_close),
        "to_forget": sorted(entry[:2] for entry in exposures.to_forget),
        "open": (exposures._open, exposures.lingering),
        "held": [
            (c.offset, c.event, c.arrival_ms, c.before_ms, c.raw, c.exposure and c.exposure.offset)
            for c in held._held.values()
        ],
        "early": {key: [c.offset for c in group] for key, group in held.early.items()},
        "undecided": {
            key: [(c.offset, sorted(w.offset for w in c.waiters or ())) for c in group]
            for key, group in held._undecided.items()
        },
        "early_due": sorted(e[:2] for e in held.early_due if e[2].held and e[2].exposure is None),
        "undecided_due": sorted(e[:2] for e in held.undecided_due),
        "advances": list(join._advances.kept),
        "rings": {u: (h.clicks, h.shown, h.shown_items) for u, h in histories._users.items()},
        "holding": {u: [c.offset for c in held_of if c.held] for u, held_of in histories._holding.items()},
        "popularity": dict(join._output.popularity._merged),
        "remembered": remembered and (dict(remembered._remembered), sorted(remembered._due)),
    }


def records(source: Source, events: Sequence[Exposure | Click], offsets: Iterator[int] | None = None) -> list[Record]:
    """Make a log of events that arrive at their own ts, at offsets 0, 1, 2 .. unless told otherwise."""
    places = offsets or iter(range(len(events)))
    return [Record(at, e.ts_ms, e, "", "", f"{source}-{at}") for at, e in zip(places, events, strict=False)]
