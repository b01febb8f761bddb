"""A candidate: resumed, late, or at once, it is the same one and gets the same verdict."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from contract.messages import HardNegatives, Sample
from contract.settings import Full, Gate, Model, Train
from tests.trainer.world import DAY_MS, LENGTH, START_MS, features, learn, learner, samples
from trainer import full_files
from trainer.candidate import Day, Trial, copied, served_vectors
from trainer.course import Course
from trainer.days import Days, Picks
from trainer.epoch import Epoch, load_result
from trainer.gate import Paired
from trainer.learner import Learner
from trainer.trail import Trail

NO_DAY = Day("", 0.0, 0, 1.0, Paired(), Paired())
NOTHING = Picks(np.zeros(0, np.int64), np.zeros(0, np.int64))


def same(one: Learner, other: Learner) -> bool:
    """Both models, to the bit."""
    pairs = ((one.state.live, other.state.live), (one.state.full, other.state.full))
    return all(torch.equal(t, b.tensors()[name]) for a, b in pairs for name, t in a.tensors().items())


def taught(**full: float) -> tuple[Learner, list[Sample]]:
    """A learner of 400 samples, and 300 more."""
    made = Learner(Model(dim=8), Train(batch=32, negatives=16), Full(**full), LENGTH)
    features(made)
    some = samples(700)
    learn(made, some[:400])
    return made, some


@pytest.mark.parametrize("stop", [0, 1, 5])
@pytest.mark.parametrize("self_weight", [0.0, 0.1])
def test_a_full_update_in_another_process_and_resumed_is_the_same(
    stop: int, self_weight: float, tmp_path: Path
) -> None:
    """Border written and read, killed after some steps, gone on from its place: the bits of one that ran straight."""
    made, some = taught(self_weight=self_weight)
    straight = copied(made)
    epoch = Epoch(straight, some[:350])
    while not epoch.over:
        epoch.step()
    epoch.finish(some[350:400])

    full_files.write_border(tmp_path, made, NOTHING, NOTHING, {"catalogue/0": 7}, (Paired(9, 1, 2, 3, 4), Paired()))
    border = full_files.read_border(tmp_path)
    assert border.features_at == {"catalogue/0": 7}
    assert border.fits == (Paired(9, 1, 2, 3, 4), Paired())
    killed, resumed, taken = (Learner(made.model, made.train, made.full, LENGTH) for _ in range(3))
    full_files.as_at_border(killed, border)
    place = Epoch(killed, some[:350])
    for _ in range(stop):
        place.step()
    full_files.write_progress(tmp_path, place.packed())

    full_files.as_at_border(resumed, full_files.read_border(tmp_path))
    going_on, kept = Epoch(resumed, some[:350]), full_files.read(tmp_path / "progress")
    assert kept is not None
    assert not Epoch(copied(resumed), some[:340]).load(kept)  # other samples: from the start
    assert going_on.load(kept)
    while not going_on.over:
        going_on.step()
    going_on.finish(some[350:400])
    assert same(straight, resumed)
    assert going_on.losses == epoch.losses

    full_files.write_candidate(tmp_path, going_on.result())
    result = full_files.read(tmp_path / "candidate")
    assert result is not None
    full_files.as_at_border(taken, full_files.read_border(tmp_path))
    load_result(taken, result)
    assert same(straight, taken)
    learn(straight, some[400:])
    learn(taken, some[400:])
    assert same(straight, taken)
    assert straight.state.numbers == taken.state.numbers


def test_what_was_learned_incrementally_has_no_part_in_a_candidate() -> None:
    """Two served models with other incremental rates give one full model to the bit: it starts from the last full one.

    The prior is no part of a model: here it only counts.
    """
    ends = []
    for rate in (0.0, 3.0):
        made = Learner(Model(dim=8, prior_rate=0), Train(batch=32, negatives=16, incremental_rate=rate), Full(), LENGTH)
        features(made)
        some = samples(400)
        learn(made, some)
        candidate = copied(made)
        epoch = Epoch(candidate, some)
        while not epoch.over:
            epoch.step()
        ends.append(candidate.state.full.tensors())
    assert all(torch.equal(tensor, ends[1][name]) for name, tensor in ends[0].items())


def test_late_or_at_once_the_verdict_is_the_same() -> None:
    """A candidate that learns the trail after the served model is the one that went along, hard negatives and all."""
    made, some = taught()
    blocks: list[list[Sample | HardNegatives]] = [list(some[n : n + 32]) for n in range(400, 700, 32)]
    blocks[2].insert(3, HardNegatives("u1", some[0].ts_ms, ["i3", "i5"], 0))
    served, along, late = (copied(made) for _ in range(3))
    for candidate in (along, late):
        epoch = Epoch(candidate, some[:400])
        while not epoch.over:
            epoch.step()
        epoch.finish([])
    trials = [Trial(c, served_vectors(made), copy.deepcopy(made.state.full), NO_DAY, 40, 0.5) for c in (along, late)]
    trail = []
    for block in blocks:
        served.step(list(block))
        trials[0].step(list(block), served.ranks)
        trail.append(served.ranks.copy())
    for block, ranks in zip(blocks, trail, strict=True):
        trials[1].step(list(block), ranks)
    assert trials[0].verdict == trials[1].verdict
    assert trials[0].verdict.outcome == "passed"
    assert trials[0].paired == trials[1].paired
    assert trials[0].paired.samples == 40
    assert same(along, late)


def test_the_model_beside_changes_nothing() -> None:
    """Scoring with the full model of before, while on trial, leaves no trace in the candidate."""
    made, some = taught()
    alone, watched = copied(made), copied(made)
    watched.beside = copy.deepcopy(made.state.full)
    learn(alone, some[400:])
    learn(watched, some[400:])
    assert same(alone, watched)
    assert (alone.ranks == watched.ranks).all()
    assert watched.beside_ranks.any()


def test_a_trail_gives_its_blocks_back() -> None:
    """Blocks of any size, from any one on, before and after a checkpoint."""
    trail = Trail()
    for size in (3, 1, 2):
        trail.add([(size, n) for n in range(size)], np.arange(size))
    again = Trail()
    again.load(trail.state())
    for one in (trail, again):
        assert len(one) == 3
        assert [len(block.ranks) for block in one.blocks(0, 100)] == [3, 1, 2]
        assert [block.picks.places() for block in one.blocks(1, 1)] == [[(1, 0)]]
        assert [block.ranks.tolist() for block in one.blocks(1, 2)] == [[0], [0, 1]]
        assert one.blocks(3, 5) == []


def test_a_border_during_a_trial_is_taken_up_after_it() -> None:
    """Days of 100 samples, a gate that wants 150: every second border waits; no sample is in two full updates."""
    made, some = learner(), samples(1_200, users=400, items=900, gap_ms=DAY_MS // 100)
    fetched: list[list[int]] = []  # a day, and what came since, in turn

    def fetch(picks: Picks) -> list[Sample]:
        fetched.append(picks.offset.tolist())
        return [some[n] for n in picks.offset.tolist()]

    course = Course(made, Days("UTC", 50), fetch, Gate(min_samples=150, tolerance=1.0, item_share=1.0))
    for n, sample in enumerate(some):
        if course.days.day_of(sample.ts_ms) > course.days.today:
            course.border(sample.ts_ms)
        course.learn([sample], 0, range(n, n + 1))
    assert len(course.judged) >= 4
    days = [offset for day in fetched[::2] for offset in day]
    assert days == list(range(len(days)))
    assert {one.samples for one in course.judged[1:]} <= {100, 200}
    assert course.judged[0].day == course.days.day_of(START_MS)


def test_refused_candidates_are_kept_and_the_rest_goes(tmp_path: Path) -> None:
    """Of five full updates the two refused last keep their candidate; what is under way is not touched."""
    for number, outcome in enumerate(("refused", "refused", "passed", "refused", None), 1):
        path = full_files.directory(tmp_path, number)
        for name in ("border", "progress", "candidate"):
            (path / name).mkdir(parents=True)
        if outcome:
            full_files.write_verdict(path, {"outcome": outcome})
    full_files.tidy(tmp_path, 5)
    left = {path.name: sorted(one.name for one in path.iterdir()) for path in tmp_path.iterdir()}
    assert left == {
        "00000002": ["candidate", "verdict.json"],
        "00000004": ["candidate", "verdict.json"],
        "00000005": ["border", "candidate", "progress"],
    }
