"""The schedule of full updates in one process and without waiting: what `headrace evaluate` runs.

The live trainer goes the same way with the same cores (days, epoch, candidate, gate), but its full update is done by a
child process; with full.cutover_deadline 0 both give the same verdicts and the same model.

    border(passed_ms)   the days passed are taken; a copy of the learner does the full update and goes on trial
    learn(block)        the served model learns, then the one on trial; on a verdict it is served, or dropped
"""

import copy
from collections.abc import Callable
from typing import NamedTuple

from contract import settings
from contract.messages import Sample
from trainer.candidate import Day, Trial, copied, cut_over, served_vectors
from trainer.days import Days, Picks
from trainer.epoch import full_update
from trainer.gate import Verdict
from trainer.learner import Learner


class Judged(NamedTuple):
    """A full update that the gate has decided on."""

    day: int  # ordinal of the last day in it
    samples: int
    verdict: Verdict


class Course:
    """A learner, the days it gathers, and its candidate."""

    def __init__(
        self, learner: Learner, days: Days, fetch: Callable[[Picks], list[Sample]], gate: settings.Gate
    ) -> None:
        """`fetch` gives samples that were learned once more."""
        self.learner, self.days, self.fetch, self.gate = learner, days, fetch, gate
        self.trial: Trial | None = None
        self.judged: list[Judged] = []
        self._taught = (0, 0)  # last day and samples of the one on trial

    def learn(self, block: list[Sample], partition: int, offsets: range) -> None:
        """Learn a block whose samples stand at these offsets."""
        self.learner.step(list(block))
        both = zip(self.learner.ranks.tolist(), self.learner.popularity_ranks.tolist(), strict=True)
        for offset, sample, ranks in zip(offsets, block, both, strict=True):
            self.days.add(partition, offset, sample.ts_ms, *ranks)
        if self.trial is not None:
            self.trial.step(list(block), self.learner.ranks)
            self._settle(self.trial)

    def border(self, passed_ms: int) -> None:
        """Stream time has come to `passed_ms`, between two blocks."""
        if self.days.passed(passed_ms) and self.trial is None:
            self._begin()

    def stop_full_updates(self) -> None:
        """Drop the one on trial; call `border` no more."""
        self.trial = None

    def _begin(self) -> None:
        day, since = self.days.take()
        self.learner.state.numbers["candidates"] += 1
        candidate = copied(self.learner)
        served, before = served_vectors(self.learner), copy.deepcopy(candidate.state.full)
        epoch, gate = full_update(candidate, self.fetch(day), self.fetch(since)), self.gate
        learned = Day(epoch.top, epoch.top_share, len(epoch.day), gate.item_share, *self.days.fits)
        self.trial = Trial(candidate, served, before, learned, gate.min_samples, gate.tolerance)
        self._taught = (self.days.today - 1, len(day.offset))
        self._settle(self.trial)

    def _settle(self, trial: Trial) -> None:
        """Act on a verdict; a border that was passed during the trial is taken up then."""
        if trial.verdict.outcome == "waiting":
            return
        self.judged.append(Judged(*self._taught, trial.verdict))
        self.trial = None
        if trial.verdict.outcome == "passed":
            self.learner = cut_over(self.learner, trial.learner)
        if self.days.due():
            self._begin()
