"""What the metric counts: each user's first click on an item, as arrays, and who is left out of whose ranking.

    P = 4 positives     user  item  ts     earlier (same user, smaller ts)
                 0        0     7   10     -
                 1        1     3   11     -
                 2        0     9   12     7
                 3        0     2   12     7        9 has the same ts: it stays in the ranking

P positives, L history, N items.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from contract.messages import Sample

I64 = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]
HISTORY = 20
MISS = np.iinfo(np.int64).max


class Block(NamedTuple):
    """Positives that are scored together, before any of them is learned."""

    user: I64  # [B]
    item: I64  # [B]
    history: I64  # [B, L] items, newest first, -1: none
    left_out: tuple[I64, I64]  # (place in the block, item) [E]


@dataclass(frozen=True)
class Positives:
    """Arrays of all positives of one data set, in the order in which they came."""

    user: I64  # [P]
    item: I64  # [P]
    ts_ms: I64  # [P]
    history: I64  # [P, L]
    sample: I64  # [P] number of the sample
    users: int
    items: int
    listed: int  # items below this number are in the catalogue from the start

    def __len__(self) -> int:
        """P."""
        return len(self.user)

    def blocks(self, size: int) -> Iterable[Block]:
        """Blocks of `size` positives, the last one shorter."""
        order = np.lexsort((np.arange(len(self)), self.user))  # by user, then as they came
        place = np.empty(len(self), np.int64)
        place[order] = np.arange(len(self))
        starts = np.searchsorted(self.user[order], self.user, side="left")  # [P] where the user's begin in `order`
        for begin in range(0, len(self), size):
            at = slice(begin, min(begin + size, len(self)))
            lengths = place[at] - starts[at]
            owner = np.repeat(np.arange(len(lengths)), lengths)
            within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
            earlier = order[np.repeat(starts[at], lengths) + within]
            strict = self.ts_ms[earlier] < self.ts_ms[at][owner]
            yield Block(self.user[at], self.item[at], self.history[at], (owner[strict], self.item[earlier[strict]]))

    def ages_ms(self) -> I64:
        """Age [P] of each positive's item since its first click here; -1: this is the first."""
        _, first, inverse = np.unique(self.item, return_index=True, return_inverse=True)
        ages = self.ts_ms - self.ts_ms[first][inverse]
        ages[first] = -1
        return ages

    def clicks_before(self) -> I64:
        """How many positives [P] the item had before this one."""
        order = np.lexsort((np.arange(len(self)), self.item))
        starts = np.searchsorted(self.item[order], self.item[order], side="left")
        before = np.empty(len(self), np.int64)
        before[order] = np.arange(len(self)) - starts
        return before


def positives_of(samples: Sequence[Sample], catalogue: Sequence[str], *, actions: Iterable[str]) -> Positives:
    """First positives per user and item among samples of some actions; items of `catalogue` get the first numbers."""
    items = {item_id: number for number, item_id in enumerate(dict.fromkeys(catalogue))}
    listed, users, wanted = len(items), dict[str, int](), set(actions)
    seen: set[tuple[int, int]] = set()
    rows: list[tuple[int, int, int, int]] = []
    history = np.full((len(samples), HISTORY), -1, np.int64)
    for number, sample in enumerate(samples):
        if sample.action not in wanted:
            continue
        pair = users.setdefault(sample.user_id, len(users)), items.setdefault(sample.item_id, len(items))
        if pair in seen:
            continue
        seen.add(pair)
        newest = [items.setdefault(e.item_id, len(items)) for e in sample.history[: -HISTORY - 1 : -1]]
        history[len(rows), : len(newest)] = newest
        rows.append((*pair, sample.ts_ms, number))
    columns = np.array(rows, np.int64).reshape(-1, 4).T.copy()
    return Positives(
        columns[0], columns[1], columns[2], history[: len(rows)].copy(), columns[3], len(users), len(items), listed
    )
