"""Decayed click counts by item row, and from them log q and the prior. Time is counted in clicks, not in seconds.

A click with number m counts 2 ** -((now - m) / half_life) at click number `now`. Held as pairs (count, count_at), so a
click touches only its own item:  count_now = count * 2 ** -((now - count_at) / half_life).
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.table import doubled

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
SMOOTHING = 0.5  # clicks: an item never clicked keeps a small probability, so that log q is finite


class Counts:
    """Decayed counts [N] of all item rows."""

    def __init__(self, half_life: float) -> None:
        self.half_life = half_life
        self.now = 0.0  # clicks counted so far
        self.count: F64 = np.zeros(16)
        self.count_at: F64 = np.zeros(16)

    def grow(self, rows: int) -> None:
        """Hold at least `rows` items."""
        self.count, self.count_at = doubled(self.count, rows), doubled(self.count_at, rows)

    def add(self, items: I64) -> None:
        """Count clicks on item rows [n], oldest first."""
        n = len(items)
        numbers = self.now + 1 + np.arange(n)
        self.now += n
        touched = np.unique(items)
        self.count[touched] = self.decayed(touched)
        self.count_at[touched] = self.now
        np.add.at(self.count, items, 0.5 ** ((self.now - numbers) / self.half_life))

    def decayed(self, items: I64 | slice) -> F64:
        """Counts as of now of some rows [n]."""
        counts: F64 = self.count[items] * np.exp2((self.count_at[items] - self.now) / self.half_life)
        return counts

    def clear(self, item: int) -> None:
        """Forget one row's clicks."""
        self.count[item] = self.count_at[item] = 0.0

    def state(self) -> dict[str, Any]:
        """Give what a checkpoint holds."""
        return {"now": self.now, "count": self.count, "count_at": self.count_at}


def log_q(counts: F64, total: float, drawn: F64, positives: int) -> F64:
    """Log of how often an item is expected among a step's candidates [n].

    `positives` in-batch items come with p = count / total; `drawn` [n] is the expected number of drawn ones. One
    expectation over both sources (the balance heuristic of Veach and Guibas, 1995) lets every candidate estimate the
    same softmax, whichever source it came from; with no drawn ones this is log q of Yi et al., RecSys 2019.
    """
    expected: F64 = np.log(positives * (counts + SMOOTHING) / max(total, 1.0) + drawn)
    return expected
