"""Tables that grow: string ids to rows without collisions, and row storage with an optimizer state per row.

An `Index` gives every id a row of its own and hands freed rows out again. Several `Rows` (the live model's and the last
full model's) may hang on one index: a row number means the same id in all of them.

    ids      "u7" "u9" (free) "u1"           Index: id -> row, free = [2]
    row        0    1    2      3
    values   [....][....][0000][....]        Rows.values [capacity, D], grown by doubling
    acc        .3   .1   1e-6   .2           Rows.acc [capacity], Adagrad's accumulator
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

START_ACC = 1e-6


class Index:
    """Ids to row numbers; the lowest free row is not sought, the last freed one is taken first."""

    def __init__(self, ids: Iterable[str | None] = (), free: Iterable[int] = ()) -> None:
        self.ids: list[str | None] = list(ids)  # by row; None: free
        self.row_of: dict[str, int] = {text: row for row, text in enumerate(self.ids) if text is not None}
        self.free: list[int] = list(free)

    def __deepcopy__(self, _: Any) -> "Index":
        return Index(self.ids, self.free)

    def __len__(self) -> int:
        """Ids that have a row."""
        return len(self.row_of)

    @property
    def rows(self) -> int:
        """Rows ever given out, free ones included: what storage must hold."""
        return len(self.ids)

    def get(self, text: str) -> int:
        """Row of an id, or -1."""
        return self.row_of.get(text, -1)

    def admit(self, text: str) -> int:
        """Row of an id, a new or freed one if it had none."""
        row = self.row_of.get(text)
        if row is None:
            if self.free:
                row = self.free.pop()
                self.ids[row] = text
            else:
                row = len(self.ids)
                self.ids.append(text)
            self.row_of[text] = row
        return row

    def forget(self, text: str) -> int:
        """Free an id's row and give its number, or -1."""
        row = self.row_of.pop(text, None)
        if row is None:
            return -1
        self.ids[row] = None
        self.free.append(row)
        return row


class Rows:
    """Values [capacity, D] and accumulators [capacity]; rows start at zero."""

    def __init__(self, dim: int, capacity: int = 16) -> None:
        self.values = torch.zeros(capacity, dim)  # [capacity, D]
        self.acc = torch.full((capacity,), START_ACC)  # [capacity]

    def grow(self, rows: int) -> None:
        """Hold at least `rows` rows; capacity doubles."""
        capacity, dim = self.values.shape
        if rows <= capacity:
            return
        larger = Rows(dim, max(rows, 2 * capacity))
        larger.values[:capacity], larger.acc[:capacity] = self.values, self.acc
        self.values, self.acc = larger.values, larger.acc

    def clear(self, row: int) -> None:
        """Set one row back to its start."""
        self.values[row] = 0
        self.acc[row] = START_ACC

    def take(self, other: "Rows") -> None:
        """Become a copy of another table's state."""
        self.values, self.acc = other.values.clone(), other.acc.clone()


def doubled(array: np.ndarray, rows: int, fill: float = 0) -> np.ndarray:
    """Give an array of at least `rows` along axis 0, grown by doubling, new places set to `fill`."""
    if rows <= len(array):
        return array
    larger = np.full((max(rows, 2 * len(array), 16), *array.shape[1:]), fill, array.dtype)
    larger[: len(array)] = array
    return larger
