"""What deltas carry of the prior."""

import numpy as np

from contract.settings import Full, Model, Train
from contract.updates import Assembler, Manifest
from tests.trainer.world import LENGTH, features, learn, samples
from trainer import delta
from trainer.learner import Learner

CHUNK_BYTES = 4_096


def publish(taught: Learner, shape: Model, kind: str, served: dict[str, tuple[float, float]]) -> Manifest:
    """Publish, and let a server take the counts in."""
    delta.touch_drifted(taught.state, shape.prior_half_life_clicks)
    chunks = delta.update(kind, 1, 0, taught.state, shape, LENGTH, 0, CHUNK_BYTES)  # type: ignore[arg-type]
    delta.published(taught.state, whole=kind == "snapshot")
    assembler = Assembler()
    update = [assembler.add(chunk) for chunk in chunks][-1]
    assert update is not None
    for section in update.items:
        counts, at = np.frombuffer(section.counts, "<f4"), np.frombuffer(section.count_at, "<f8")
        served.update(zip(section.ids, zip(counts.tolist(), at.tolist(), strict=True), strict=True))
    return update.manifest


def test_the_served_prior_is_the_learned_one() -> None:
    """After every delta, count and formula of `updates` give each item the prior it was scored with, within DRIFT."""
    shape = Model(dim=8, prior_half_lives=[20, 200, 2_000], prior_half_life_clicks=200, prior_rate=0.1)
    taught, served = Learner(shape, Train(batch=32, negatives=16), Full(), LENGTH), dict[str, tuple[float, float]]()
    features(taught)
    made = samples(1_200)
    for begin in range(0, len(made), 100):
        learn(taught, made[begin : begin + 100])
        manifest = publish(taught, shape, "delta" if begin else "snapshot", served)
        state = taught.state
        truth = state.prior.logs(slice(0, state.items.rows))
        for item, (count, at) in served.items():
            now = count * 2 ** (-(manifest.click_number - at) / manifest.prior_half_life_clicks)
            found = manifest.prior_weight * np.log(now + manifest.prior_epsilon)
            assert abs(found - truth[state.items.get(item)]) <= delta.DRIFT + 1e-6
    assert len(set(state.prior.betas.tolist())) == 3, "the betas have learned, so that the test says something"


def test_without_half_lives_the_plain_count_travels() -> None:
    """With prior_half_lives [] the count of the one half-life and the settings' weight and epsilon are published."""
    shape = Model(dim=8, prior_half_lives=[], prior_half_life_clicks=200, prior_weight=0.7, prior_epsilon=0.3)
    taught, served = Learner(shape, Train(batch=32, negatives=16), Full(), LENGTH), dict[str, tuple[float, float]]()
    features(taught)
    learn(taught, samples(300))
    manifest = publish(taught, shape, "snapshot", served)
    assert (manifest.prior_weight, manifest.prior_epsilon, manifest.temperature) == (0.7, 0.3, shape.temperature)
    counts = taught.state.counts.decayed(slice(0, taught.state.items.rows))
    for item, (count, at) in served.items():
        now = count * 2 ** (-(manifest.click_number - at) / 200)
        np.testing.assert_allclose(now, counts[taught.state.items.get(item)], rtol=1e-5, atol=1e-6)
