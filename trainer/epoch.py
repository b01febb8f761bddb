"""A full update: from the last full model, a day's samples shuffled, one epoch, all parameters. Pure; in small steps.

    epoch = Epoch(learner, day)         seeded by the setting and the full update's number: always the same order
    while not epoch.over: epoch.step()  `state.full` learns a batch; `packed()` and `load()` keep the place in between
    epoch.finish(since)                 the live model is the full one; then what came since the border, incrementally

Nothing of the live model goes in: it starts where the last accepted full update ended.
"""

from collections import Counter
from typing import Any

import numpy as np

from contract.messages import Sample
from trainer.learner import Learner
from trainer.packing import Packed, rng_state, set_rng
from trainer.table import Index


class Epoch:
    """One full update of a learner whose state nobody else changes meanwhile."""

    def __init__(self, learner: Learner, day: list[Sample]) -> None:
        self.learner, self.day = learner, learner.still_known(day)
        self.state = learner.state
        self.state.rng = np.random.default_rng([learner.train.seed, self.state.numbers["candidates"]])
        self.catalogue = learner.catalogue()
        self.order = self.state.rng.permutation(len(self.day))  # [n]
        self.done = 0  # samples
        self.losses: list[float] = []
        counts = Counter(sample.item_id for sample in self.day)
        self.top, most = counts.most_common(1)[0] if counts else ("", 0)  # the item with most of the day's samples
        self.top_share = most / max(len(self.day), 1)

    @property
    def over(self) -> bool:
        """Whether the whole day is learned."""
        return self.done >= len(self.day)

    def step(self) -> None:
        """Learn the next batch."""
        chosen = [self.day[k] for k in self.order[self.done : self.done + self.learner.train.batch]]
        loss = self.learner.again(self.state.full, chosen, everything=True, catalogue=self.catalogue)
        self.losses.append(loss)
        self.done += len(chosen)

    def finish(self, since: list[Sample]) -> None:
        """Make the full model the live one, and let that learn what was learned before the border was seen."""
        state, size = self.state, self.learner.train.batch
        state.live.take(state.full)
        state.all_moved()
        since = self.learner.still_known(since)
        for n in range(0, len(since), size):
            self.learner.again(state.live, since[n : n + size], everything=False)
        state.numbers["full_updates"] += 1

    @property
    def loss(self) -> float:
        """Mean loss of the epoch."""
        return float(np.mean(self.losses)) if self.losses else 0.0

    # ---- between two processes ---------------------------------------------------------------------------------------

    def packed(self) -> Packed:
        """The place, and all that was changed so far."""
        tensors = {f"full.{name}": tensor for name, tensor in self.state.full.tensors().items()}
        return Packed(tensors, self._plain())

    def result(self) -> Packed:
        """Both models after `finish`."""
        tensors = {f"live.{name}": tensor for name, tensor in self.state.live.tensors().items()}
        return Packed(self.packed().tensors | tensors, self._plain())

    def _plain(self) -> dict[str, Any]:
        context = self.state.context.index
        return {
            "day": len(self.day),
            "done": self.done,
            "losses": self.losses,
            "top": [self.top, self.top_share],
            "rng": rng_state(self.state.rng),
            "context": [context.ids, context.free],
            "full_updates": self.state.numbers["full_updates"],
        }

    def load(self, packed: Packed) -> bool:
        """Go on from a place; False, and nothing is changed, when it was of another set of samples."""
        if packed.plain["day"] != len(self.day):
            return False
        load_result(self.learner, packed)
        self.done, self.losses = packed.plain["done"], packed.plain["losses"]
        return True


def load_result(learner: Learner, packed: Packed) -> None:
    """Take the models and the random numbers' state of `packed()` or `result()`."""
    for name, model in (("full.", learner.state.full), ("live.", learner.state.live)):
        tensors = {n.removeprefix(name): t for n, t in packed.tensors.items() if n.startswith(name)}
        if tensors:
            model.load(tensors)
    state, plain = learner.state, packed.plain
    state.rng = np.random.default_rng()
    set_rng(state.rng, plain["rng"])
    Index.__init__(state.context.index, *plain["context"])
    state.numbers["full_updates"] = plain["full_updates"]
    state.grow()
    state.all_moved()


def full_update(learner: Learner, day: list[Sample], since: list[Sample]) -> Epoch:
    """Do a whole full update."""
    epoch = Epoch(learner, day)
    while not epoch.over:
        epoch.step()
    epoch.finish(since)
    return epoch
