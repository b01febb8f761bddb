"""The softmax over sampled candidates."""

import math

import numpy as np
import pytest
import torch

from contract.messages import HardNegatives, Marker, Sample, SampleRecord
from trainer.loss import accidental, candidate_bias, sampled_softmax
from trainer.negatives import Drawn, Drops


def test_accidental_hits_are_masked() -> None:
    """The drawing of trainer/loss.py: the other copy of a positive and the user's own positives are no negatives.

    candidates        7  9  4  2
    u1 -> 7           x  -  x  -      (x at the positive: it is counted once, apart)
    u2 -> 9           -  x  -  -
    u1 -> 4           x  -  x  -
    """
    candidates = np.array([7, 9, 4, 2])
    known_sample, known_item = np.array([0, 0, 1, 2, 2, 2]), np.array([7, 4, 9, 7, 4, 11])
    scratch = np.full(12, -1)
    mask = accidental(np.array([0, 1, 2]), known_sample, known_item, candidates, scratch)
    assert mask.tolist() == [
        [True, False, True, False],
        [False, True, False, False],
        [True, False, True, False],
    ]
    assert (scratch == -1).all()


def test_loss_equals_a_softmax_over_every_single_candidate() -> None:
    """Distinct candidates with `times` give what a softmax over all columns, repeats and hard ones, gives."""
    rng = np.random.default_rng(1)
    cosines, bias, times = rng.uniform(-1, 1, (3, 4)), rng.normal(size=4), np.array([1, 2, 1, 3])
    places, mask = np.array([0, 1, 0]), rng.random((3, 4)) < 0.3
    mask[np.arange(3), places] = True
    hard_sample, hard_logit = np.array([2, 2, 0]), rng.normal(size=3)
    wanted = 0.0
    for i in range(3):
        own = cosines[i, places[i]] / 0.5 + bias[places[i]]
        columns = [cosines[i, u] / 0.5 + bias[u] for u in range(4) if not mask[i, u] for _ in range(times[u])] + [
            float(logit) for s, logit in zip(hard_sample, hard_logit, strict=True) if s == i
        ]
        wanted += math.log(sum(math.exp(c) for c in [own, *columns])) - own
    loss = sampled_softmax(
        torch.tensor(cosines),
        torch.tensor(places),
        torch.tensor(mask),
        torch.tensor(bias),
        torch.tensor(times, dtype=torch.float64),
        0.5,
        torch.ones(3, dtype=torch.float64),
        (torch.tensor(hard_sample), torch.tensor(hard_logit)),
    )
    assert float(loss) == pytest.approx(wanted / 3)


@pytest.mark.parametrize(("correction", "served"), [("prior", True), ("logq", False)])
def test_corrected_samples_estimate_the_full_softmax(correction: str, served: bool) -> None:
    """Over many batches the sampled partition sum is the full one's: sum over all items of exp(served score)."""
    rng = np.random.default_rng(3)
    counts = np.array([50.0, 20.0, 5.0, 1.0, 0.0, 200.0])
    cosines = rng.uniform(-1, 1, 6)
    full = np.exp(cosines + (np.log(counts + 0.5) if served else 0.0)).sum()
    p = (counts + 0.5) / (counts + 0.5).sum()
    positives, draws = 40, 30
    drawn_from = Drawn(counts)
    sums = []
    for _ in range(4_000):
        in_batch, drawn = rng.choice(6, positives, p=p), drawn_from.draw(draws, rng)
        bias = candidate_bias(
            correction, counts, float((counts + 0.5).sum()), drawn_from.expected(counts, draws), positives, 1.0, 0.5
        )
        times = np.bincount(np.concatenate([in_batch, drawn]), minlength=6)
        sums.append((times * np.exp(cosines + bias)).sum())
    assert np.mean(sums) == pytest.approx(full, rel=0.02)


def test_draws_follow_clicks_to_the_power_of_three_quarters() -> None:
    """Shares of the draws are counts^0.75 over their sum, and `expected` says the same."""
    counts = np.array([0.0, 1.0, 16.0, 81.0])
    drawn = Drawn(counts).draw(70_000, np.random.default_rng(2))
    shares = np.bincount(drawn, minlength=4) / len(drawn)
    np.testing.assert_allclose(shares, np.array([0, 1, 8, 27]) / 36, atol=0.01)
    np.testing.assert_allclose(Drawn(counts).expected(counts, 36), [0, 1, 8, 27])
    assert len(Drawn(np.zeros(3)).draw(5, np.random.default_rng(2))) == 0


def test_exposed_but_not_clicked_is_no_negative() -> None:
    """By type: what the trainer reads carries clicked and thrown-out items, never the others that were shown."""
    fields = {name for kind in (Sample, HardNegatives, Marker) for name in kind.__struct_fields__}
    assert SampleRecord == Sample | HardNegatives | Marker
    assert not fields & {"shown", "exposed", "outcomes", "scores"}
    assert "items" not in Sample.__struct_fields__
    drops = Drops()
    drops.add("u1", ["i1", "i2"])
    pairs = drops.draw(["u0", "u1"], 10, np.random.default_rng(0))
    assert {item for _, item in pairs} <= {"i1", "i2"}
    assert {place for place, _ in pairs} == {1}
