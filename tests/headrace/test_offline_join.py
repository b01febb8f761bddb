"""The offline join against the law by brute force, and what the brute force does not see (contexts, decay, gaps)."""

import random

import pytest

from contract.messages import Advance, Click, Exposure, HistoryEntry, ItemScore, Outcome, Sample, ShownEntry
from headrace.offline_join import join_partition
from headrace.offline_times import Record, Rules
from tests.headrace.brute_join import (
    Case,
    advances_of,
    brute,
    brute_clicks_only,
    click_records,
    draw_case,
    exposure_records,
    flat,
    smaller,
)

MINUTE = 60_000
DAY = 1_650_000_000_000
RULES = Rules(30 * MINUTE, 5 * MINUTE, 2 * MINUTE, 20, 20, 60 * MINUTE)


def _differs(case: Case, rules: Rules) -> bool:
    law = (brute_clicks_only if rules.clicks_only else brute)(case, rules)
    joined = join_partition(rules, exposure_records(case), click_records(case), advances_of(case))
    return flat(joined, case) != law


@pytest.mark.parametrize("start", range(0, 10_000, 2_500))
def test_equals_the_brute_force(start: int) -> None:
    """Samples, outcomes, dead letters, counts and histories of any two logs and any idle advances are the law's."""
    for seed in range(start, start + 2_500):
        rnd = random.Random(seed)
        rules = Rules(10, rnd.choice([4, 4, 4, 6, 2]), 2, rnd.choice([1, 1, 2]), rnd.choice([0, 1, 3]), 1_000)
        if seed % 10 == 0:
            rules = Rules(10, 4, 2, rules.history_length, 0, 1_000, clicks_only=True)
        case = draw_case(rnd, rules)
        if _differs(case, rules):
            pytest.fail(f"seed {seed}, {rules}: {smaller(case, lambda cut, r=rules: _differs(cut, r))}")


def test_whole_records() -> None:
    """A sample, an outcome and a history hold every field as the messages define them.

    r0 shows a, b |---- click b ----|                         window of r0 ends, W passes it
    0 min          1 min    share b 2 min        like of an earlier item at -1 min    40 min
    """
    context: dict[str, str | bool | int | float | list[str | bool | int | float]] = {"tab": "1"}
    exposures = [
        Record(7, DAY + 1, Exposure("r0", "u", DAY, ["a", "b"], context)),
        Record(9, DAY + 41 * MINUTE, Exposure("r1", "w", DAY + 41 * MINUTE, ["a"])),
    ]
    clicks = [
        Record(3, DAY, Click("u", "z", DAY - MINUTE, "like", "old")),
        Record(4, DAY + 61_000, Click("u", "b", DAY + MINUTE, "click", "r0")),
        Record(6, DAY + 2 * MINUTE, Click("u", "b", DAY + 2 * MINUTE, "share", "r0")),
        Record(8, DAY + 42 * MINUTE, Click("w", "a", DAY + 42 * MINUTE, "click", "r1")),
    ]
    joined = join_partition(RULES, exposures, clicks)
    history = [HistoryEntry("z", DAY - MINUTE, "like")]
    sample = Sample("u", "r0", DAY, "b", DAY + MINUTE, "click", 1, history, context, DAY + 61_000, 7, 4)
    assert joined.samples["u", "r0", DAY, "b"] == sample
    assert joined.outcomes == {7: Outcome("u", "r0", DAY, [ItemScore("a", 0), ItemScore("b", 2)], 7, context)}
    assert joined.dead_letters == [("clicks", 3, "orphan")]
    assert [entry.offset for entry in joined.histories["u"].clicks] == [3, 4, 6]
    assert joined.histories["w"].shown == [ShownEntry(9, DAY + 41 * MINUTE, ["a"])]


def test_counts_decay_in_event_time() -> None:
    """A count halves per half-life before the partition's newest event time, whatever the order of arrival."""
    exposures = [Record(0, DAY, Exposure("r0", "u", DAY, ["a"]))]
    clicks = [
        Record(0, DAY + MINUTE, Click("u", "a", DAY + MINUTE, "click", "r0")),
        Record(1, DAY + 61 * MINUTE, Click("v", "z", DAY + 61 * MINUTE, "click", "r9")),
    ]
    count = join_partition(RULES, exposures, clicks).popularity["a"]
    assert (count.exposures, count.clicks) == (1, 1)
    assert count.decayed_clicks == pytest.approx(0.5)
    assert count.decayed_exposures == pytest.approx(2 ** (-61 / 60))


def test_an_advance_acts_below_its_positions_only() -> None:
    """What an idle advance closes takes no click read after it; a click read before it still matches.

    exposure r0 | click (offset 0) | advance, w past r0's window | click (offset 1): closed_while_idle
    """
    exposures = [Record(0, DAY, Exposure("r0", "u", DAY, ["a", "b"]))]
    clicks = [
        Record(0, DAY + MINUTE, Click("u", "a", DAY + MINUTE, "click", "r0")),
        Record(1, DAY + 2 * MINUTE, Click("u", "b", DAY + 2 * MINUTE, "click", "r0")),
    ]
    advance = Advance(1, 1, DAY + 30 * MINUTE + 1, "both")
    joined = join_partition(RULES, exposures, clicks, [advance])
    assert list(joined.samples) == [("u", "r0", DAY, "a")]
    assert joined.dead_letters == [("clicks", 1, "closed_while_idle")]
    assert joined.outcomes[0].items == [ItemScore("a", 1), ItemScore("b", 0)]


def test_an_hour_fast_and_an_hour_slow() -> None:
    """An event an hour ahead of its arrival moves no time; one an hour behind its partition is late."""
    clicks = [
        Record(0, DAY, Click("u", "a", DAY, "click")),
        Record(1, DAY, Click("u", "a", DAY + 60 * MINUTE, "click")),
        Record(2, DAY, Click("u", "b", DAY - 5 * MINUTE, "click")),
        Record(3, DAY, Click("u", "c", DAY - 60 * MINUTE, "click")),
    ]
    joined = join_partition(RULES, [], clicks)
    assert joined.dead_letters == [("clicks", 1, "ahead"), ("clicks", 3, "late")]
    assert joined.undecided == [0, 2]
