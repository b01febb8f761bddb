"""The count prior with several half-lives at once: how much each weighs is learned while it predicts. Pure numpy.

A click with number m counts 2 ** -((now - m) / half_life) at click number `now`, for each of H half-lives:

    prior(i) = sum_h beta_h * log(count_h(i) + epsilon)          score(i) = cos / tau + prior(i)

One half-life with beta 1 is the plain prior. Several tell what is on the rise (much lately, little before) from what is
fading. The betas descend the softmax loss of the served score over the whole catalogue, a convex problem, on some
samples of each batch before it is counted: they learn what predicts the next click beside what the towers know. In news
the last hundreds of clicks come to decide, in films the last hundred thousands; nobody has to set it. A factor on the
towers' part was learned like this, too: likelihood wants them timid, and the first ten places paid for it, in news 1.3
points of 59.

So that it is served by the one formula, log(count + epsilon), the prior travels as the count that gives it:

    served epsilon = exp(sum_h beta_h * log(epsilon))             what an item that was never clicked has
    served count   = exp(prior) - served epsilon                  0 for that item

n samples, N items, H half-lives.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from trainer.frequency import F64, I64
from trainer.table import doubled

FORGET = 0.99  # of the accumulated squared gradients, a step: what weighs best may change
TINY = 1e-12


class Prior:
    """Counts [N, H] of all item rows, and the betas [H]."""

    def __init__(
        self, half_lives: Sequence[float], start: float, weight: float, epsilon: float, *, mixed: bool = True
    ) -> None:
        self.mixed = mixed  # False: it only counts, the score does without it
        self.half_lives: F64 = np.array(half_lives, np.float64)  # [H]
        self.log_epsilon = float(np.log(epsilon))
        self.now = 0.0  # clicks counted so far
        self.count: F64 = np.zeros((16, len(half_lives)))  # [capacity, H], as of count_at
        self.count_at: F64 = np.zeros(16)
        self.betas: F64 = np.zeros(len(half_lives))  # [H]
        self.betas[int(np.argmin(np.abs(np.log(self.half_lives / start))))] = weight
        self.squares: F64 = np.zeros(len(half_lives))  # of the betas' gradients

    def grow(self, rows: int) -> None:
        """Hold at least `rows` items."""
        self.count, self.count_at = doubled(self.count, rows), doubled(self.count_at, rows)

    def add(self, items: I64) -> None:
        """Count clicks on item rows [n], oldest first."""
        n = len(items)
        self.now += n
        touched = np.unique(items)
        self.count[touched] = self._decayed(touched)
        self.count_at[touched] = self.now
        ages = np.arange(n - 1, -1, -1)[:, None]  # [n, 1]
        np.add.at(self.count, items, 0.5 ** (ages / self.half_lives))

    def clear(self, item: int) -> None:
        """Forget one row's clicks."""
        self.count[item] = self.count_at[item] = 0.0

    def logs(self, items: I64 | slice) -> F64:
        """Prior [n] of some rows as of now: what is added to cos / tau."""
        found: F64 = self._parts(items) @ self.betas
        return found

    @property
    def epsilon(self) -> float:
        """What the served formula adds to a served count."""
        return float(np.exp(self.betas.sum() * self.log_epsilon))

    def counts(self, items: I64 | slice) -> F64:
        """Served counts [n] of some rows as of now: log(count + epsilon) is the prior."""
        found: F64 = np.exp(self.logs(items)) - self.epsilon
        return found

    def learn(self, cosines: np.ndarray, items: I64, alive: np.ndarray, rate: float, share: float = 1.0) -> None:
        """One step on samples before they are counted: cosines / tau [n, N], their items [n], candidates [N].

        `share`: of a whole step's samples; fewer move the weights less, and are remembered less.
        """
        parts = self._parts(slice(0, len(alive)))  # [N, H]
        added = (parts @ self.betas).astype(np.float32)  # [N]
        logits = np.where(alive, cosines + added, -np.inf)  # [n, N]
        chance = np.exp(logits - logits.max(axis=1, keepdims=True))
        chance /= chance.sum(axis=1, keepdims=True)
        surplus = chance.mean(axis=0, dtype=np.float64)  # [N] what is expected more than it came
        surplus -= np.bincount(items, minlength=len(alive)) / len(items)
        gradient = share * (surplus @ parts)  # [H]
        self.squares = FORGET**share * (self.squares + gradient**2)
        self.betas = self.betas - rate * gradient / np.sqrt(self.squares + TINY)

    def _parts(self, items: I64 | slice) -> F64:
        parts: F64 = np.log(self._decayed(items) + np.exp(self.log_epsilon))
        return parts

    def _decayed(self, items: I64 | slice) -> F64:
        ages = (self.now - self.count_at[items])[:, None]  # [n, 1]
        decayed: F64 = self.count[items] * np.exp2(-ages / self.half_lives)  # [n, H]
        return decayed

    def arrays(self) -> dict[str, F64]:
        """Give what a checkpoint holds."""
        found = {"count": self.count, "count_at": self.count_at, "betas": self.betas, "squares": self.squares}
        return found | {"now": np.array([self.now])}

    def load(self, arrays: dict[str, Any]) -> None:
        """Take what `arrays` gave."""
        self.count, self.count_at = arrays["count"], arrays["count_at"]
        self.betas, self.squares = arrays["betas"], arrays["squares"][: len(arrays["betas"])]
        self.now = float(arrays["now"][0])
