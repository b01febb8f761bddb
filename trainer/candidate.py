"""A candidate on trial: a learner of its own that goes the same way as the served one, and is judged on it. Pure.

    border      the served learner is copied; the copy's models do the full update          copied(), epoch.py
    catch-up    the samples since the border, in the blocks in which the served one learned them
    shadow      every further block, right after the served one
    verdict     on the first `min_samples` samples after the border that both scored before they learned them
    cut-over    a candidate that passed, and has learned all that the served one has, takes its place

Counts, prior and what users liked are copied and go on with the candidate: it scores a sample with what was known then.
So the verdict depends on the samples and their blocks alone, not on how late the candidate came. Beside it the full
model from which it started scores the same samples: what would have been without the day.
"""

import copy
from typing import NamedTuple

import numpy as np

from contract.messages import HardNegatives, Sample
from trainer.evaluate import Recall
from trainer.frequency import I64
from trainer.gate import Paired, Vectors, Verdict, flooded, judge, looked_at, nobodys_taste
from trainer.learner import Learner
from trainer.model import Model


def copied(learner: Learner) -> Learner:
    """Another learner of the same state, but for the metric, which belongs to what is served."""
    state = learner.state
    made = copy.copy(learner)
    made.state = copy.deepcopy(state, {id(state.recall): Recall()})
    return made


def served_vectors(learner: Learner) -> Vectors:
    """What the gate looks at in a live model: the vectors of all items that can be recalled."""
    state = learner.state
    alive = state.flags["items.alive"][: state.items.rows]
    return looked_at(state.fresh_vectors().numpy()[alive])


class Day(NamedTuple):
    """What the gate looks at in the samples of a day."""

    item: str  # the one with most of them
    share: float
    samples: int
    limit: float  # see gate.flooded
    fit: Paired  # see gate.nobodys_taste
    fit_before: Paired  # of the day before

    def refusal(self) -> str:
        """Why it is not to be learned, in words; empty when it is."""
        flood = flooded(self.item, self.share, self.samples, self.limit)
        return flood or nobodys_taste(self.fit, self.fit_before)


class Trial:
    """A candidate that has done its full update, and its hits beside those of the served model."""

    def __init__(
        self, learner: Learner, served: Vectors, before: Model, day: Day, min_samples: int, tolerance: float
    ) -> None:
        """`served`: of the served model at the border; `before`: the full model that the candidate started from."""
        self.learner, self.served, self.day = learner, served, day
        self.min_samples, self.tolerance = min_samples, tolerance
        self.paired, self.rested = Paired(), Paired()
        learner.beside = before
        self.verdict = self._judge()

    def step(self, records: list[Sample | HardNegatives], ranks: I64) -> None:
        """Score and learn a block as the served model did, which gave it `ranks` [n] (0: not scored)."""
        self.learner.step(records)
        if self.verdict.outcome != "waiting":
            return
        own, before = self.learner.ranks, self.learner.beside_ranks
        both = np.flatnonzero((ranks > 0) & (own > 0))[: self.min_samples - self.paired.samples]
        self.paired.add(ranks[both], own[both])
        self.rested.add(before[both], own[both])
        if self.paired.samples >= self.min_samples:
            self.verdict = self._judge()

    def _judge(self) -> Verdict:
        candidate = served_vectors(self.learner)
        verdict = judge(self.paired, self.served, candidate, self.min_samples, self.tolerance, self.rested)
        if reason := self.day.refusal():
            verdict = Verdict("refused", reason)
        if verdict.outcome != "waiting":
            self.learner.beside = None
        return verdict


def cut_over(served: Learner, candidate: Learner) -> Learner:
    """Give the candidate, which is served from now on; the metric goes on."""
    candidate.state.recall = served.state.recall
    return candidate
