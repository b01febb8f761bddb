"""Negatives: drawn ones with p proportional to clicks^0.75, and hard ones from ranking-drops.

Exposed-but-not-clicked items are no negatives for recall: nothing here, and no message that the trainer reads, carries
them.
"""

from collections import OrderedDict, deque

import numpy as np
import numpy.typing as npt

from trainer.frequency import F64, I64

POWER = 0.75
DROPS_PER_USER = 20  # newest thrown-out items remembered of one user
USERS_WITH_DROPS = 100_000  # users whose drops are remembered; the longest untouched goes first

Pairs = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]


class Drawn:
    """Draws item rows from counts^0.75; its weights are those of one moment."""

    def __init__(self, counts: F64) -> None:
        weights = counts**POWER
        self.cumulated = np.cumsum(weights)
        self.total = float(self.cumulated[-1]) if len(weights) else 0.0

    def draw(self, n: int, rng: np.random.Generator) -> I64:
        """Item rows [n], with repetition; empty before the first click."""
        if self.total <= 0:
            return np.zeros(0, np.int64)
        rows = np.searchsorted(self.cumulated, rng.random(n) * self.total, side="right")
        return np.minimum(rows, len(self.cumulated) - 1).astype(np.int64)

    def expected(self, counts: F64, n: int) -> F64:
        """How often items of these counts [k] come among n draws."""
        return n * counts**POWER / self.total if self.total > 0 else np.zeros_like(counts)


class Drops:
    """Each user's newest thrown-out items: the hard negatives."""

    def __init__(self) -> None:
        self.by_user: OrderedDict[str, deque[str]] = OrderedDict()

    def add(self, user: str, items: list[str]) -> None:
        """Remember a checked ranking-drop."""
        ring = self.by_user.setdefault(user, deque(maxlen=DROPS_PER_USER))
        ring.extend(items)
        self.by_user.move_to_end(user)
        if len(self.by_user) > USERS_WITH_DROPS:
            self.by_user.popitem(last=False)

    def draw(self, users: list[str], n: int, rng: np.random.Generator) -> list[tuple[int, str]]:
        """At most n pairs (place in `users`, item), spread over the users that have drops."""
        places = [place for place, user in enumerate(users) if user in self.by_user] if self.by_user else []
        if not places or n <= 0:
            return []
        chosen = [places[k] for k in rng.integers(len(places), size=n)]
        rings = [self.by_user[users[place]] for place in chosen]
        picks = rng.random(n)
        return [(place, ring[int(p * len(ring))]) for place, ring, p in zip(chosen, rings, picks, strict=True)]
