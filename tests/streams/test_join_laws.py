"""Laws of the join over random logs, plans and rules: any interleaving, any batch borders, crashes, idle inputs, gaps.

`python -m tests.streams.bulk SECONDS SEED` runs the same laws over far more logs.
"""

import dataclasses

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings

from contract.messages import ACTIONS, Click, Exposure
from streams.join import Record, Rules
from tests.streams import bulk, oracle
from tests.streams.drive import CLICKS, EXPOSURES, World, result_of, run
from tests.streams.laws import check, check_rereads
from tests.streams.worlds import RULES, case_of

few = settings(
    max_examples=250, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
times = st.one_of(st.integers(0, 40), st.sampled_from([5, 9, 10, 11, 14, 15, 18, 19, 20, 24, 25, 28, 29, 34, 100, 104]))
skews = st.sampled_from([0, 0, 0, -2, -3, 5])
users, requests = st.sampled_from("uuv"), st.sampled_from("pq")
shown = st.sampled_from([["a"], ["b"], ["a", "b"], ["b", "a", "b"]])
refusals = st.sampled_from([""] * 20 + ["broken", "wrong_partition", "poison"])
gaps = st.sampled_from([0, 0, 0, 1, 3])
exposures = st.tuples(st.builds(Exposure, requests, users, times, shown), skews, refusals, gaps)
clicks = st.tuples(
    st.builds(Click, users, st.sampled_from("ab"), times, st.sampled_from(ACTIONS), st.sampled_from(["p", "q", None])),
    skews,
    refusals,
    gaps,
)
steps = st.sampled_from(["x", "x", "c", "c", "x3", "c3", "ix", "ic", "ixc", "commit", "commit", "crash", "ex", "ec"])
plans = st.lists(steps, max_size=40)
rules = st.builds(
    dataclasses.replace,
    st.just(RULES),
    history_length=st.integers(1, 2),
    shown_exposures=st.integers(0, 2),
    lateness_ms=st.sampled_from([0, 4]),
)


def log_of(source: str, drawn: list[tuple[Exposure | Click, int, str, int]], order: int) -> list[Record]:
    """Make a log; `order` 1: in event time, 2: nearly so, 0: as drawn."""
    if order:
        drawn = sorted(drawn, key=lambda d: d[0].ts_ms + (d[1] if order > 1 else 0))
    log, offset = [], 0
    for event, skew, refused, gap in drawn:
        offset += gap
        log.append(Record(offset, event.ts_ms + skew, None if refused else event, refused, "", f"{source}-{offset}"))
        offset += 1
    return log


worlds = st.builds(
    lambda x, c, order_x, order_c: World(log_of(EXPOSURES, x, order_x), log_of(CLICKS, c, order_c)),
    st.lists(exposures, max_size=10),
    st.lists(clicks, max_size=12),
    st.integers(0, 2),
    st.integers(0, 2),
)


@few
@given(rules, worlds, plans)
def test_what_comes_out_is_the_offline_join(rules: Rules, world: World, plan: list[str]) -> None:
    """Law: samples, outcomes, dead letters, histories, counts and totals are those of two offline joins, each once, for
    any interleaving, any batch borders, any crash; and for any other interleaving with the same idle advances.
    """  # noqa: D205
    check(rules, world, plan)


@few
@given(rules, worlds, plans)
def test_a_silent_reread_gives_the_state_before(rules: Rules, world: World, plan: list[str]) -> None:
    """Law: at any commit, the state rebuilt from metadata, logs and compacted topics equals the state in memory."""
    check_rereads(rules, world, plan)


@few
@given(rules, worlds, plans)
def test_clicks_only_is_the_offline_join(rules: Rules, world: World, plan: list[str]) -> None:
    """Law: without exposures every valid click is a sample at once, each id once, through any crash."""
    alone = dataclasses.replace(rules, clicks_only=True)
    plan = [step for step in plan if step[0] != "x"]
    check(alone, World([], world.clicks), plan)
    check_rereads(alone, World([], world.clicks), plan)


@few
@given(rules, worlds, st.lists(st.one_of(steps, st.sampled_from(["forget:u", "forget:v", "commit"])), max_size=40))
def test_deletion_changes_histories_and_nothing_else(rules: Rules, world: World, plan: list[str]) -> None:
    """Law: deleting a user empties the history for good, also through a crash; every other verdict stays."""
    check_rereads(rules, world, plan)
    check_deletion(rules, world, plan)


def check_deletion(rules: Rules, world: World, plan: list[str]) -> None:
    """Compare a run with deletions to the offline join, histories left out."""
    worker = run(rules, world, plan)
    found = result_of(worker)
    wanted = oracle.join(world.exposures, world.clicks, worker.topics.advances, rules)
    for name in ("outcomes", "dead_letters", "counts", "totals", "undecided", "waiting"):
        assert getattr(found, name) == getattr(wanted, name), name
    bare = [[msgspec.structs.replace(s, history=[]) for s in result.samples] for result in (found, wanted)]
    assert bare[0] == bare[1]
    for user, ring in found.rings.items():  # what was deleted does not come back: only later clicks are there
        assert {e.offset for e in ring} <= {r.offset for r in world.clicks if r.event and r.event.user_id == user}


@pytest.mark.parametrize("start", range(0, 3_000, 500))
def test_seeded_worlds(start: int) -> None:
    """Law: the same, over worlds with a drifting clock and a small range of ts, where rare cases are frequent."""
    for seed in range(start, start + 500):
        rules = bulk.rules_of(seed)
        error = bulk.failure(rules, case_of(seed), bulk.chars_of(seed))
        assert error is None, (seed, error)
