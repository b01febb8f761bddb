"""The catalogue that is searched: a base with its index, and over it what deltas brought since. Immutable.

    base     row 0   1   2   3          hidden  .  x  x  .       (1 was replaced, 2 was deleted)
    overlay  row             4   5      replaced item 1, a new item

A delta gives a new catalogue that shares the base; a request keeps the one it began with. Each overlay row knows its
sequence, so that a base built anew at sequence s takes over and only what came after s stays on top.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from contract.updates import F32, ItemRows, floats
from publisher.index import F64, I64, Index, Items, joined, no_items, taken

FOLD_SHARE = 0.25
FOLD_MIN_ITEMS = 1_000


@dataclass(frozen=True, eq=False)
class Catalogue:
    """Items by row: base rows first, overlay rows behind them."""

    base: Items
    index: Index
    base_sequence: int
    base_row_of: dict[str, int]
    hidden: npt.NDArray[np.bool_]  # [base rows]
    over: Items
    over_sequence: I64  # [overlay rows]
    over_row_of: dict[str, int] = field(default_factory=dict)
    removed: dict[str, int] = field(default_factory=dict)  # id -> sequence that deleted it, since base_sequence

    def __len__(self) -> int:
        """Items that can be found."""
        return len(self.base) - int(self.hidden.sum()) + len(self.over)

    @property
    def row_count(self) -> int:
        """Rows, hidden ones included."""
        return len(self.base) + len(self.over)

    def row(self, item_id: str) -> int | None:
        """Row of an item, or None."""
        over = self.over_row_of.get(item_id)
        if over is not None:
            return len(self.base) + over
        base = self.base_row_of.get(item_id)
        return None if base is None or self.hidden[base] else base

    def item_id(self, row: int) -> str:
        """Id of a row."""
        return self.base.ids[row] if row < len(self.base) else self.over.ids[row - len(self.base)]

    def id_row(self, row: int) -> F32:
        """Item-ID row [D] of a row."""
        rows, at = (self.base.rows, row) if row < len(self.base) else (self.over.rows, row - len(self.base))
        found: F32 = rows[at]
        return found

    def vector(self, row: int) -> F32:
        """Unit vector [D] of a row."""
        found: F32 = self.vectors(np.array([row]))[0]
        return found

    def vectors(self, rows: I64) -> F32:
        """Unit vectors [n, D] of rows."""
        in_base = rows < len(self.base)
        found = np.empty((len(rows), self.base.vectors.shape[1]), np.float32)
        found[in_base] = self.base.vectors[rows[in_base]]
        found[~in_base] = self.over.vectors[rows[~in_base] - len(self.base)]
        return found

    def counts(self) -> tuple[F32, F64]:
        """Counts [rows] and the click numbers [rows] they are as of."""
        return (
            np.concatenate([self.base.counts, self.over.counts]),
            np.concatenate([self.base.count_at, self.over.count_at]),
        )


def decoded(sections: Iterable[ItemRows], dim: int) -> Items:
    """Items of sections; of an id that comes twice the last one counts."""
    parts = [
        Items(
            section.ids,
            floats(section.rows, dim),
            floats(section.vectors, dim),
            np.frombuffer(section.counts, "<f4"),
            np.frombuffer(section.count_at, "<f8"),
        )
        for section in sections
        if section.ids
    ]
    items = joined(parts) if parts else no_items(dim)
    last = {item: row for row, item in enumerate(items.ids)}
    return items if len(last) == len(items) else taken(items, np.fromiter(last.values(), np.int64, len(last)))


def based(items: Items, index: Index, sequence: int) -> Catalogue:
    """Catalogue of a base with nothing over it."""
    row_of = {item: row for row, item in enumerate(items.ids)}
    none = np.zeros(0, np.int64)
    over = no_items(items.rows.shape[1])
    return Catalogue(items, index, sequence, row_of, np.zeros(len(items), np.bool_), over, none)


def changed(catalogue: Catalogue, items: Items, deleted: Iterable[str], sequence: int) -> Catalogue:
    """Catalogue after a delta: its items replace or join, its deleted ones are gone."""
    gone, news = set(deleted) - set(items.ids), set(items.ids)
    stay = np.array([i for i, item in enumerate(catalogue.over.ids) if item not in news and item not in gone], np.int64)
    over = joined([taken(catalogue.over, stay), items])
    sequences = np.concatenate([catalogue.over_sequence[stay], np.full(len(items), sequence, np.int64)])
    removed = {i: s for i, s in catalogue.removed.items() if i not in news} | dict.fromkeys(gone, sequence)
    result = _over(catalogue, over, sequences, removed)
    return folded(result, sequence) if _fold_is_due(result) else result


def rebased(catalogue: Catalogue, base: Catalogue) -> Catalogue:
    """Put what this catalogue got after `base` was taken over `base`, which was built from the same updates."""
    later = np.flatnonzero(catalogue.over_sequence > base.base_sequence)
    removed = {i: s for i, s in catalogue.removed.items() if s > base.base_sequence}
    over, sequences = taken(catalogue.over, later), catalogue.over_sequence[later]
    return _over(base, over, sequences, removed)


def folded(catalogue: Catalogue, sequence: int) -> Catalogue:
    """Catalogue whose overlay became part of the base, for an exact index or one that is then built anew."""
    shown = np.flatnonzero(~catalogue.hidden)
    return based(joined([taken(catalogue.base, shown), catalogue.over]), Index(), sequence)


def differing(catalogue: Catalogue, items: Items) -> tuple[Items, list[str]]:
    """What a whole catalogue `items` has otherwise than this one: the items that differ, and the ids it lacks."""
    news = set(items.ids)
    gone = [item for item in (*catalogue.base_row_of, *catalogue.over_row_of) if item not in news]
    differ = [n for n, item in enumerate(items.ids) if not _same(catalogue, items, n, catalogue.row(item))]
    return taken(items, np.array(differ, np.int64)), gone


def _same(catalogue: Catalogue, items: Items, n: int, row: int | None) -> bool:
    if row is None:
        return False
    held, at = (catalogue.base, row) if row < len(catalogue.base) else (catalogue.over, row - len(catalogue.base))
    return bool(
        held.counts[at] == items.counts[n]
        and held.count_at[at] == items.count_at[n]
        and np.array_equal(held.rows[at], items.rows[n])
        and np.array_equal(held.vectors[at], items.vectors[n])
    )


def _over(below: Catalogue, over: Items, sequences: I64, removed: dict[str, int]) -> Catalogue:
    hidden = np.zeros(len(below.base), np.bool_)
    hidden[[below.base_row_of[item] for item in (*over.ids, *removed) if item in below.base_row_of]] = True
    row_of = {item: row for row, item in enumerate(over.ids)}
    return replace(below, hidden=hidden, over=over, over_sequence=sequences, over_row_of=row_of, removed=removed)


def _fold_is_due(catalogue: Catalogue) -> bool:
    return catalogue.index.exact and len(catalogue.over) > max(FOLD_MIN_ITEMS, FOLD_SHARE * len(catalogue.base))
