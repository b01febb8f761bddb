"""The cheaper gate of deltas, on a real learner."""

import numpy as np

from tests.trainer.world import learn, learner, samples
from trainer.delta import published
from trainer.evaluate import Recall
from trainer.learner import Learner
from trainer.watch import Watch


def scored(recall: Recall, n: int, share: float) -> None:
    """Batches of 100 scored samples, of which a share hits."""
    for _ in range(n // 100):
        ranks = np.where(np.arange(100) < 100 * share, 1, 51)
        recall.add(ranks, ranks)


def taught() -> Learner:
    """A small learner that has learned something."""
    made = learner()
    learn(made, samples(200))
    return made


def test_a_sound_model_goes_out() -> None:
    """Nothing is held while all is well, nor before there is enough to compare."""
    made, watch = taught(), Watch(1_000, 0.5)
    assert watch.holds(made.state) == ""
    made.state.recall = Recall()
    scored(made.state.recall, 900, 0.4)
    scored(made.state.recall, 1_000, 0.0)
    assert watch.holds(made.state) == ""


def test_nan_is_held_until_another_model_is_live() -> None:
    """One touched row with NaN holds everything; untouched ones are not looked at; a new model sets it right."""
    for table in ("users", "items"):
        made, watch = taught(), Watch(1_000, 0.5)
        row = int(np.flatnonzero(made.state.flags[f"{table}.touched"])[0])
        made.state.live.tables[table].values[row] = np.nan
        made.state.stale[:] = True
        assert "NaN" in watch.holds(made.state)
        assert "NaN" in watch.holds(made.state)
        made.state.live.take(made.state.full)
        made.state.all_moved()
        watch.forget(0)
        assert watch.holds(made.state) == ""
        published(made.state, whole=True)
        made.state.live.tables[table].values[row] = np.nan
        assert watch.holds(made.state) == ""


def test_a_sudden_drop_is_held_until_it_is_well_again() -> None:
    """Good, bad, bad for long, good: held from the drop to the recovery, however long; a restart remembers."""
    made, watch = taught(), Watch(1_000, 0.5)
    recall = made.state.recall = Recall()
    scored(recall, 5_000, 0.4)
    assert watch.holds(made.state) == ""
    scored(recall, 1_000, 0.1)
    assert "is 0.1000, before them it was 0.4000" in watch.holds(made.state)
    scored(recall, 30_000, 0.1)  # all that is remembered is bad by now
    assert watch.holds(made.state)
    again = Watch(1_000, 0.5)
    again.load(watch.state())
    assert again.holds(made.state) == watch.reason
    scored(recall, 1_000, 0.3)
    assert again.holds(made.state) == ""
    assert again.before == 0.0


def test_a_full_update_that_passed_starts_anew() -> None:
    """After another model went live, deltas go out, and only its own samples are judged."""
    made, watch = taught(), Watch(1_000, 0.5)
    recall = made.state.recall = Recall()
    scored(recall, 5_000, 0.4)
    scored(recall, 1_000, 0.0)
    assert watch.holds(made.state)
    watch.forget(recall.scored)
    assert watch.holds(made.state) == ""
    scored(recall, 900, 0.0)
    assert watch.holds(made.state) == ""
    scored(recall, 100, 0.0)
    assert watch.holds(made.state)
