"""The count prior of several half-lives."""

import copy

import numpy as np
import pytest

from trainer.frequency import Counts
from trainer.prior import Prior

ITEMS = 12


def clicked(prior: Prior, n: int = 500, seed: int = 1) -> np.ndarray:
    """Count some random clicks in uneven batches and give them."""
    items = np.random.default_rng(seed).integers(ITEMS - 2, size=n)  # the last two are never clicked
    prior.grow(ITEMS)
    for part in np.split(items, [3, 100, 101, 350]):
        prior.add(part)
    return items


def test_one_half_life_is_the_plain_prior() -> None:
    """With one half-life and before any learning it is weight * log(count + epsilon)."""
    prior, counts = Prior([50.0], 50, 0.8, 0.5), Counts(50)
    counts.grow(ITEMS)
    counts.add(clicked(prior))
    wanted = 0.8 * np.log(counts.decayed(slice(0, ITEMS)) + 0.5)
    np.testing.assert_allclose(prior.logs(slice(0, ITEMS)), wanted, rtol=1e-9)


def test_each_half_life_decays_by_itself() -> None:
    """A click k clicks ago counts 2 ** -(k / h) for each h, however the clicks were cut into batches."""
    prior = Prior([10.0, 1_000.0], 10, 1.0, 0.5)
    items = clicked(prior)
    ages = np.arange(len(items) - 1, -1, -1)
    for place, half_life in enumerate((10.0, 1_000.0)):
        prior.betas = np.eye(2)[place]
        counts = np.bincount(items, 0.5 ** (ages / half_life), minlength=ITEMS)
        np.testing.assert_allclose(prior.logs(slice(0, ITEMS)), np.log(counts + 0.5), rtol=1e-9)


@pytest.mark.parametrize("betas", [[1.0, 0.0], [0.7, 0.6], [1.5, -0.4]])
def test_served_count_gives_the_prior(betas: list[float]) -> None:
    """log(served count + served epsilon) is the prior, whatever the betas; an item never clicked has count 0."""
    prior = Prior([10.0, 1_000.0], 10, 1.0, 0.5)
    clicked(prior)
    prior.betas = np.array(betas)
    counts = prior.counts(slice(0, ITEMS))
    np.testing.assert_allclose(np.log(counts + prior.epsilon), prior.logs(slice(0, ITEMS)), rtol=1e-9)
    np.testing.assert_allclose(counts[-2:], 0, atol=1e-12)


@pytest.mark.parametrize(("memory", "other"), [(0, 1), (1, 0)])
def test_what_predicts_gains(memory: int, other: int) -> None:
    """Clicks that follow the short (or long) half-life's counts make its beta grow past the other's."""
    rng, lives = np.random.default_rng(3), [30.0, 3_000.0]
    prior = Prior(lives, lives[other], 1.0, 0.5)
    prior.grow(ITEMS)
    alive = np.ones(ITEMS, bool)
    start = prior.betas.copy()
    prior.add(np.repeat(np.arange(ITEMS), rng.integers(1, 60, ITEMS)))
    for _ in range(1_000):
        truth = Prior.logs(_alone(prior, memory), slice(0, ITEMS))
        chance = np.exp(truth) / np.exp(truth).sum()
        items = rng.choice(ITEMS, size=16, p=chance)
        prior.learn(np.zeros((16, ITEMS), np.float32), items, alive, 0.05)
        prior.add(items)
    assert prior.betas[memory] > prior.betas[other]
    assert prior.betas[memory] > start[memory] + 0.3


def _alone(prior: Prior, place: int) -> Prior:
    """The same counts seen through one half-life."""
    alone = Prior(prior.half_lives.tolist(), 1, 1.0, 0.5)
    alone.load(prior.arrays() | {"betas": np.eye(len(prior.half_lives))[place]})
    return alone


def test_what_is_no_candidate_teaches_nothing() -> None:
    """The gradient is that of the softmax over candidates alone: by hand for three items of which one is none."""
    prior = Prior([100.0], 100, 1.0, 0.5)
    prior.grow(3)
    prior.add(np.array([0, 0, 0, 1, 2, 2]))
    logs = prior.logs(slice(0, 3))
    chance = np.exp(logs[:2]) / np.exp(logs[:2]).sum()
    wanted = chance @ logs[:2] - logs[1]
    prior.learn(np.zeros((1, 3), np.float32), np.array([1]), np.array([True, True, False]), 0.0)
    assert prior.squares[0] == pytest.approx(0.99 * wanted**2, rel=1e-5)


def test_a_part_of_a_step_weighs_its_share() -> None:
    """A step on a quarter of the samples has a quarter of the gradient and forgets a quarter as much."""
    prior = Prior([100.0], 100, 1.0, 0.5)
    prior.grow(3)
    prior.add(np.array([0, 0, 0, 1]))
    prior.squares[:] = 1.0
    part = copy.deepcopy(prior)
    for one, share in ((prior, 1.0), (part, 0.25)):
        one.learn(np.zeros((1, 3), np.float32), np.array([1]), np.ones(3, bool), 0.0, share)
    gradient = prior.squares[0] / 0.99 - 1
    assert gradient > 0.01
    assert part.squares[0] == pytest.approx(0.99**0.25 * (1 + gradient / 16))


def test_a_cleared_row_starts_anew() -> None:
    """A freed row has no clicks."""
    prior = Prior([10.0, 100.0], 10, 1.0, 0.5)
    clicked(prior)
    prior.clear(3)
    assert prior.counts(np.array([3]))[0] == pytest.approx(0)
