"""The law of the join, checked on one case: used by hypothesis, by the seeded bulk run and by the drawn tables."""

import dataclasses
from collections.abc import Iterable, Sequence

import pytest

from contract.messages import Advance, Click, Exposure
from headrace import offline_join, offline_times
from streams.join import Record, Rules
from tests.streams import oracle
from tests.streams.drive import Worker, World, replay, result_of, run, state_of
from tests.streams.oracle import Result


def check(rules: Rules, world: World, plan: Sequence[str], replays: int = 3) -> Worker:
    """Everything that one case must satisfy; gives back the worker at the end of both logs."""
    worker = run(rules, world, plan)
    found = result_of(worker)
    advances = worker.topics.advances
    if rules.clicks_only:
        compare(found, oracle.join_clicks_only(world.clicks, rules))
    else:
        compare(found, oracle.join(world.exposures, world.clicks, advances, rules))
    compare(found, second_oracle(rules, world, advances))
    for seed in range(replays):
        compare(result_of(replay(rules, world, advances, seed)), found)
    return worker


def check_rereads(rules: Rules, world: World, plan: Sequence[str]) -> None:
    """At every commit, a state rebuilt in silence from what was committed equals the state in memory.

    The list of advances may come out shorter: one that was dropped no longer stands between two of which the younger
    replaces the older.
    """
    worker = Worker(rules, world)
    worker.commit()
    for step in [*plan, "x99", "c99", "commit"]:
        worker.do(step)
        if step == "commit":
            live, rebuilt = state_of(worker.join), state_of(worker.rebuilt())
            longer = iter(live.pop("advances"))
            assert all(advance in longer for advance in rebuilt.pop("advances"))  # a subsequence
            for name in live:
                assert rebuilt[name] == live[name], (name, rebuilt[name], live[name])


def compare(found: Result, wanted: Result) -> None:
    """Equality, to within rounding for the decayed counts; says what differs."""
    for one in dataclasses.fields(Result):
        a, b = getattr(found, one.name), getattr(wanted, one.name)
        if one.name == "decayed":
            assert a.keys() == b.keys()
            for item in a:
                assert a[item] == pytest.approx(b[item], rel=1e-9, abs=1e-30), (item, a[item], b[item])
        else:
            assert a == b, (one.name, a, b)


def second_oracle(rules: Rules, world: World, advances: Sequence[Advance]) -> Result:
    """Say the same by the offline join that `headrace audit` uses."""
    theirs = offline_times.Rules(**{f.name: getattr(rules, f.name) for f in dataclasses.fields(rules)})
    joined = offline_join.join_partition(
        theirs, list(_typed(world.exposures, Exposure)), list(_typed(world.clicks, Click)), advances
    )
    newest: dict[str, int] = {}
    for exposure in _accepted(rules, world):
        for item in exposure.items:
            newest[item] = max(newest.get(item, oracle.NEVER), exposure.ts_ms)
    for sample in joined.samples.values():
        newest[sample.item_id] = max(newest.get(sample.item_id, oracle.NEVER), sample.ts_ms)
    result = Result(
        samples=list(joined.samples.values()),
        outcomes=list(joined.outcomes.values()),
        dead_letters=joined.dead_letters,
        rings={user: history.clicks for user, history in joined.histories.items() if history.clicks},
        shown={user: history.shown for user, history in joined.histories.items() if history.shown},
        counts={item: (count.exposures, count.clicks) for item, count in joined.popularity.items()},
        undecided=joined.undecided,
        waiting=joined.waiting,
    )
    for item, count in joined.popularity.items():
        grow = 2.0 ** ((joined.ref_ms - newest[item]) / rules.half_life_ms)
        result.decayed[item] = (count.decayed_exposures * grow, count.decayed_clicks * grow, newest[item])
    return result.finish(rules, len(world.exposures), len(world.clicks), joined.repeats)


def _accepted(rules: Rules, world: World) -> Iterable[Exposure]:
    if rules.clicks_only:
        return
    verdicts, seen = oracle.verdicts(world.exposures, rules), set()
    for record in world.exposures:
        event = record.event
        if verdicts[record.offset] == "ok" and isinstance(event, Exposure):
            key = (event.user_id, event.request_id, event.ts_ms)
            if key not in seen:
                seen.add(key)
                yield event


def _typed(log: Sequence[Record], kind: type[offline_times.E]) -> Iterable["offline_times.Record[offline_times.E]"]:
    for record in log:
        event = record.event
        assert event is None or isinstance(event, kind)
        yield offline_times.Record(record.offset, record.arrival_ms, event, record.reason)
