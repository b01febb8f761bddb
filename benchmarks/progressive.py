"""A learner on its course through a data set's samples, as in `headrace evaluate`, that can change its ways midway.

    warm-up: first half of the positives        scored: second half
    |------------- IDs + nightly --------------|---- IDs + nightly ----|
                                               |---- nightly only -----|     every mode goes on from the same learner,
                                               |---- IDs only ---------|     copied at the middle
                                               |---- all online -------|
                                               |---- frozen -----------|

A model of which no tower was ever trained is no model; so "IDs only" means that full updates stopped, not that there
never was one. Views (served.py) look on and rank the same samples by what is stale.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from benchmarks.served import Rings, View
from contract.messages import HardNegatives, Sample
from contract.settings import Settings
from headrace.evaluate import NOT_SCORED, OnlineLearner
from headrace.world import World
from trainer.batch import Batch
from trainer.days import Days
from trainer.epoch import full_update
from trainer.evaluate import Recall
from trainer.frequency import I64
from trainer.learner import Pairs
from trainer.model import Model
from trainer.self_supervision import Catalogue

Moves = Literal["ids", "everything", "nothing"]
Progress = Callable[[int], None]


@dataclass(frozen=True)
class Mode:
    """What goes on in the scored half."""

    moves: Moves  # in an incremental step
    nightly: bool  # full updates


MODES = {
    "IDs + nightly": Mode("ids", nightly=True),
    "nightly only": Mode("nothing", nightly=True),
    "IDs only": Mode("ids", nightly=False),
    "all online": Mode("everything", nightly=False),
    "frozen": Mode("nothing", nightly=False),
}


class _Last(Recall):
    """The learner's own metric, which also keeps the last block's ranks."""

    last: I64

    def add(self, model: I64, popularity: I64) -> None:
        super().add(model, popularity)
        self.last = model


class Watched(OnlineLearner):
    """A learner whose incremental steps move the ID rows, everything or nothing, and that notes every rank."""

    def __init__(self, settings: Settings, samples: int) -> None:
        super().__init__(settings.model, settings.train, settings.full, settings.history.length)
        self.moves: Moves = "ids"
        self.views: list[View] = []
        self.rings = Rings()
        self.own: I64 = np.full(samples, NOT_SCORED, np.int64)  # [S] ranks with everything fresh
        self.by_view: dict[str, I64] = {}
        self.begin = 0  # number of the block's first sample
        self.now_ms: I64 = np.zeros(0, np.int64)  # [B] event time as each of the block's samples came out
        self.last = self.state.recall = _Last()

    def look(self, view: View) -> None:
        """Let a view rank every sample from now on."""
        self.views.append(view)
        self.by_view[view.name] = np.full(len(self.own), NOT_SCORED, np.int64)

    def learn(
        self, model: Model, batch: Batch, pairs: Pairs, *, everything: bool, catalogue: Catalogue | None = None
    ) -> float:
        """Learn as `moves` says; a full update learns everything in any case."""
        if not everything and self.moves == "nothing":
            return 0.0
        self.all_online = self.moves == "everything"
        return super().learn(model, batch, pairs, everything=everything, catalogue=catalogue)

    def _score(self, batch: Batch, known: I64, first: np.ndarray, pairs: Pairs) -> tuple[I64, I64, I64]:
        self.rings.add(batch.samples)
        at = self.begin + np.flatnonzero(first)
        for view in self.views:  # before the learner's own scoring, which lets the prior's weights learn
            self.by_view[view.name][at] = view.ranks(self, batch, known, pairs, self.rings, self.now_ms)[first]
        found = super()._score(batch, known, first, pairs)
        if len(at):
            self.own[at] = self.last.last
        return found


class Course:
    """A learner, the samples it goes through, and how far it is."""

    def __init__(self, world: World, settings: Settings) -> None:
        self.samples, self.passed_ms = world.samples, np.array(world.passed_ms, np.int64)
        self.learner = Watched(settings, len(world.samples))
        for item in world.items:
            self.learner.state.catalogue(item.item_id, item.features)
        for user in world.users:
            self.learner.state.profile(user.user_id, user.features)
        self.days = Days(settings.full.time_zone, settings.full.min_samples)
        self.nightly = True
        self.done = self.full_updates = 0

    def fork(self) -> "Course":
        """A copy that goes its own way; the samples are shared."""
        shared = {id(self.samples): self.samples, id(self.passed_ms): self.passed_ms}
        return copy.deepcopy(self, shared)

    def go(self, until: int, progress: Progress) -> None:
        """Score and learn samples up to number `until`: blocks of train.batch, at a day border the partial block."""
        size, days = self.learner.train.batch, self.days
        for at in range(self.done, until):
            passed_ms = int(self.passed_ms[at])
            border = days.day_of(passed_ms) > days.today
            if border or at - self.done == size:
                self._step(at)
                progress(at)
            if border and days.passed(passed_ms) and self.nightly:
                self._full_update()
        self._step(until)
        progress(until)

    def _step(self, end: int) -> None:
        begin, learner = self.done, self.learner
        if begin == end:
            return
        learner.begin, learner.now_ms = begin, self.passed_ms[begin:end]
        records: Sequence[Sample | HardNegatives] = self.samples[begin:end]
        learner.step(list(records))
        for number in range(begin, end):
            self.days.add(0, number, self.samples[number].ts_ms)
        self.done = end

    def _full_update(self) -> None:
        day, since = ([self.samples[number] for number in picks.offset.tolist()] for picks in self.days.take())
        full_update(self.learner, day, since)
        self.full_updates += 1
