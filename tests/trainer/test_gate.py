"""The gate, case by case."""

import numpy as np
import pytest

from trainer.gate import Paired, Vectors, dropped, flooded, judge, looked_at, nobodys_taste, unfit, unsound

GOOD = Vectors(finite=True, longest=1.0, directed=90, items=100)


def paired(served_only: int, candidate_only: int, both: int, neither: int) -> Paired:
    """Ranks 1 are hits, ranks 51 misses."""
    found = Paired()
    hit, miss = 50, 51  # the last rank that is a hit, the first that is none
    served = [hit] * served_only + [miss] * candidate_only + [hit] * both + [miss] * neither
    candidate = [miss] * served_only + [hit] * candidate_only + [hit] * both + [miss] * neither
    found.add(np.array(served), np.array(candidate))
    return found


@pytest.mark.parametrize(
    ("counts", "outcome", "words"),
    [
        ((0, 0, 0, 0), "waiting", "0 of 1000"),
        ((0, 500, 0, 499), "waiting", "999 of 1000"),  # however good, it waits
        ((500, 0, 0, 499), "waiting", "999 of 1000"),  # and however bad
        ((0, 0, 200, 800), "passed", "0.2000 against 0.2000"),
        ((10, 60, 200, 730), "passed", "+0.0500"),
        ((60, 40, 200, 700), "passed", "-0.0200"),  # worse by the tolerance itself
        ((61, 40, 200, 699), "refused", "-0.0210"),
        ((250, 0, 0, 750), "refused", "0.0000 against 0.2500"),
    ],
)
def test_recall(counts: tuple[int, int, int, int], outcome: str, words: str) -> None:
    """A candidate waits for enough paired samples, then passes unless it is worse by more than the tolerance."""
    verdict = judge(paired(*counts), GOOD, GOOD, 1_000, 0.02)
    assert verdict.outcome == outcome
    assert words in verdict.reason


@pytest.mark.parametrize(
    ("candidate", "words"),
    [
        (GOOD._replace(finite=False), "NaN"),
        (GOOD._replace(longest=1.5), "norm 1.5"),
        (GOOD._replace(items=49), "49 items where 100"),
        (GOOD._replace(directed=44), "only 44"),
    ],
)
def test_unfit_at_once(candidate: Vectors, words: str) -> None:
    """What cannot be served is refused before a single sample is scored, and however good its recall."""
    for hits in (Paired(), paired(0, 500, 500, 0)):
        verdict = judge(hits, GOOD, candidate, 1_000, 0.02)
        assert verdict.outcome == "refused"
        assert words in verdict.reason


@pytest.mark.parametrize("candidate", [GOOD, GOOD._replace(items=50, directed=45), GOOD._replace(items=500)])
def test_fit(candidate: Vectors) -> None:
    """Bounds themselves are allowed, and so is growth."""
    assert unfit(GOOD, candidate) == ""


def test_first_candidate() -> None:
    """Against an initial model, of which no item has a direction, nothing about the item count speaks."""
    assert unfit(looked_at(np.zeros((0, 4), np.float32)), GOOD) == ""


def test_standard_error_by_hand() -> None:
    """B = 30, c = 10, n = 1000: difference -0.02, error sqrt(40 - 0.4) / 1000."""
    difference, error = paired(30, 10, 200, 760).difference()
    assert difference == pytest.approx(-0.02)
    assert error == pytest.approx(39.6**0.5 / 1000)


def test_paired_adds_up() -> None:
    """Batches add up to the same as one batch."""
    rng = np.random.default_rng(1)
    served, candidate = rng.integers(1, 100, (2, 500))
    once, often = Paired(), Paired()
    once.add(served, candidate)
    for part in np.array_split(np.arange(500), 7):
        often.add(served[part], candidate[part])
    assert once == often
    with pytest.raises(ValueError, match="3 ranks"):
        once.add(served[:3], candidate[:4])


def test_looked_at() -> None:
    """Norms, direction and finiteness of real vectors."""
    vectors = np.eye(4, dtype=np.float32)
    assert looked_at(vectors) == Vectors(True, 1.0, 4, 4)  # noqa: FBT003
    vectors[2] = 0
    assert looked_at(vectors).directed == 3
    vectors[1, 1] = np.nan
    assert not looked_at(vectors).finite
    vectors[1, 1] = np.inf
    assert not looked_at(vectors).finite


def test_the_day_must_not_make_it_worse() -> None:
    """No worse than a served model that the same day has spoilt is not enough: the model before it is asked, too."""
    spoilt, rested = paired(10, 10, 100, 880), paired(40, 10, 100, 850)
    assert judge(spoilt, GOOD, GOOD, 1_000, 0.02).outcome == "passed"
    verdict = judge(spoilt, GOOD, GOOD, 1_000, 0.02, rested)
    assert verdict.outcome == "refused"
    assert "0.1100 against 0.1400 of the full model before it" in verdict.reason
    assert judge(spoilt, GOOD, GOOD, 1_000, 0.03, rested).outcome == "passed"


def test_a_flood_is_named() -> None:
    """A day is refused when one item has more than the share that is believed, and the line names it."""
    assert flooded("i7", 0.3, 1_000, 0.3) == ""
    assert "item i7 has 50 % of the day's 1000 samples, at most 30 %" in flooded("i7", 0.5, 1_000, 0.3)


@pytest.mark.parametrize(
    ("day", "before", "believed"),
    [
        ((300, 200, 500, 9_000), (200, 400, 500, 8_900), False),  # behind popularity, the day before ahead
        ((300, 200, 500, 9_000), (400, 200, 500, 8_900), True),  # behind both days: it must be able to learn again
        ((300, 200, 500, 9_000), (0, 0, 0, 0), True),  # the first day
        ((200, 300, 500, 9_000), (200, 400, 500, 8_900), True),  # ahead both days
        ((260, 200, 500, 9_040), (200, 400, 500, 8_900), True),  # behind by chance: 60 of 460, 2.8 standard errors
        ((270, 200, 500, 9_030), (200, 400, 500, 8_900), False),  # 70 of 470: 3.2
        ((300, 200, 500, 9_000), (200, 260, 500, 9_040), True),  # ahead by chance the day before
        ((0, 0, 0, 0), (200, 400, 500, 8_900), True),  # nothing was scored
    ],
)
def test_a_day_of_nobodys_taste(
    day: tuple[int, int, int, int], before: tuple[int, int, int, int], *, believed: bool
) -> None:
    """A day is refused when popularity beat the model on it beyond chance, and the model popularity the day before."""
    reason = nobodys_taste(paired(*day), paired(*before))
    assert (reason == "") == believed
    if not believed:
        assert "for popularity, on 10000 samples" in reason
        assert "the day before it was +0.0200" in reason


def test_deltas_stop_on_a_drop() -> None:
    """Deltas stop when recall falls below its share of what it was; the bound itself is allowed."""
    assert dropped(0.1, 0.2, 2_000, 0.5) == ""
    assert "newest 2000 samples is 0.0990, before them it was 0.2000" in dropped(0.099, 0.2, 2_000, 0.5)
    assert dropped(0.0, 0.9, 2_000, 1.0) == ""


@pytest.mark.parametrize(
    ("finite", "longest", "words"), [(True, 1.0, ""), (False, 1.0, "NaN"), (True, 1.5, "norm 1.5")]
)
def test_unsound_deltas(finite: bool, longest: float, words: str) -> None:
    """What a delta would carry is finite, and no vector longer than one."""
    assert (words in unsound(longest, finite=finite)) if words else unsound(longest, finite=finite) == ""
