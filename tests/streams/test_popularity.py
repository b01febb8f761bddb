"""Counts with forward decay: exact, in any order, over any batch borders, summable over partitions."""

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from contract.messages import Popularity
from streams.popularity import MAX_EXPONENT, PopularityCounts

HALF_LIFE = 1_000
events = st.lists(st.tuples(st.integers(0, 20_000), st.sampled_from("ab"), st.booleans(), st.booleans()), max_size=30)


def at(record: Popularity, ts: int) -> tuple[float, float]:
    """Decayed counts as of ts, by the formula in contract.messages."""
    fade = 2 ** -((ts - record.ref_ms) / HALF_LIFE)
    return record.decayed_exposures * fade, record.decayed_clicks * fade


def count(counts: PopularityCounts, ts: int, item: str, click: bool) -> None:
    if click:
        counts.click(item, ts)
    else:
        counts.exposure([item], ts)


@settings(max_examples=200, deadline=None, database=None, derandomize=True)
@given(events, st.randoms(use_true_random=False))
def test_any_order_and_any_borders_give_the_sum(drawn: list[tuple[int, str, bool, bool]], rnd: "object") -> None:
    """Law: counts are exact; decayed counts are the sum of 2 ** (-age / half_life), whatever the order or borders."""
    shuffled = list(drawn)
    rnd.shuffle(shuffled)  # type: ignore[attr-defined]  # hypothesis' own Random
    records: dict[str, Popularity] = {}
    counts = PopularityCounts(HALF_LIFE)
    for ts, item, click, border in shuffled:
        count(counts, ts, item, click)
        if border:
            records |= counts.take()
            counts = PopularityCounts(HALF_LIFE)
            counts.restore(records.items())
    records |= counts.take()
    for item, record in records.items():
        mine = [(ts, click) for ts, name, click, _ in drawn if name == item]
        assert (record.exposures, record.clicks) == (sum(not k for _, k in mine), sum(k for _, k in mine))
        assert record.ref_ms == max(ts for ts, _ in mine)
        wanted = [
            sum(2 ** -((record.ref_ms - ts) / HALF_LIFE) for ts, k in mine if k is kind) for kind in (False, True)
        ]
        assert [record.decayed_exposures, record.decayed_clicks] == pytest.approx(wanted)


def test_only_touched_items_are_taken() -> None:
    """Law: a batch holds the absolute values of the items touched in it, and no others."""
    counts = PopularityCounts(HALF_LIFE)
    counts.exposure(["a", "b", "a"], 0)
    assert counts.take()["a"].exposures == 2
    counts.click("b", 1_000)
    taken = counts.take()
    assert list(taken) == ["b"]
    assert (taken["b"].exposures, taken["b"].clicks) == (1, 1)
    assert at(taken["b"], 1_000) == pytest.approx((0.5, 1.0))
    assert counts.take() == {}


def test_a_jump_of_years_neither_overflows_nor_loses() -> None:
    """Law: far apart events (half-lives by the million) leave exact counts and finite sums, in both directions."""
    far = HALF_LIFE * MAX_EXPONENT * 1_000_000
    counts = PopularityCounts(HALF_LIFE)
    for ts in (far, 0, far, 500):
        counts.click("a", ts)
    counts.click("old", 0)
    taken = counts.take()
    assert (taken["a"].exposures, taken["a"].clicks, taken["a"].ref_ms) == (0, 4, far)
    assert taken["a"].decayed_clicks == pytest.approx(2.0)
    assert taken["old"].decayed_clicks == pytest.approx(1.0)


def test_partitions_sum() -> None:
    """Law: a reader that brings two partials to one time and adds them has what one partition would have counted."""
    one, two, both = (PopularityCounts(HALF_LIFE) for _ in range(3))
    for number, ts in enumerate([0, 700, 1_500, 2_100, 4_000]):
        (one if number % 2 else two).click("a", ts)
        both.click("a", ts)
    parts = [at(counts.take()["a"], 5_000)[1] for counts in (one, two)]
    assert sum(parts) == pytest.approx(at(both.take()["a"], 5_000)[1])
