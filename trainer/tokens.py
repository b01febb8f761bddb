"""Feature tokens of owners (items, profiles, requests): token ids to table rows, and each owner's token sum.

owner row     tokens                                        sum [D]
0          ("tag","=39") ("tag","=2") ("type","=AD")      (r0 + r1 + r2) / sqrt(3)
1          none                                           0
"""

import copy
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor

from contract.features import Token, tokens
from trainer.frequency import I64
from trainer.model import token_sums
from trainer.table import Index, Rows, doubled

UNKNOWN = -1  # row of a token without one: counts in a sum's divisor and adds nothing, as on the server
MAX_ROWS = 200_000
MAX_BYTES = 1_200_000  # of a table's token texts: three tables in one manifest stay below DERIVED_MAX_BYTES
TOKEN_BYTES = 5  # of a token in the manifest beside its key
SEEN_MAX = 50_000  # sets of features whose rows are remembered
NONE: I64 = np.zeros(0, np.int64)


def key(token: Token) -> str:
    """A token as one text; the name's length stands first, so that no two tokens collide."""
    return f"{len(token[0])}:{token[0]}{token[1]}"


def token(text: str) -> Token:
    """The token of a key."""
    length, rest = text.split(":", 1)
    return rest[: int(length)], rest[int(length) :]


class Vocabulary:
    """Token keys to rows of one token table, which never frees a row.

    A snapshot's manifest holds all tokens of all tables and goes out as one chunk: hence a bound of bytes beside the
    one of rows. Once the table is full, new tokens stay UNKNOWN: ids that never come back (sessions) are no features.
    """

    def __init__(self, max_rows: int = MAX_ROWS) -> None:
        self.index, self.max_rows = Index(), max_rows
        self._bytes = self._counted = 0  # text of the first rows, counted up when asked for
        self._seen: dict[bytes, I64] = {}  # rows of whole sets of features
        self._ids = self.index.ids  # that they are rows of: a checkpoint brings others

    def admit(self, features: Mapping[str, Any]) -> I64:
        """Rows [n] of all tokens of an owner's features; new tokens get new rows while there is room, else UNKNOWN."""
        found = [self._row(key(t)) for group in tokens(features).values() for t in group]
        return np.array(found, np.int64) if found else NONE

    def admit_often(self, features: Mapping[str, Any]) -> I64:
        """As `admit`, quicker for features that came before: what has a row keeps it, what found no room never will."""
        if len(self._seen) >= SEEN_MAX or self._ids is not self.index.ids:
            self._seen, self._ids = {}, self.index.ids
        packed = msgspec.msgpack.encode(features)
        rows = self._seen.get(packed)
        if rows is None:
            rows = self._seen[packed] = self.admit(features)
        return rows

    def _row(self, text: str) -> int:
        row = self.index.get(text)
        return self.index.admit(text) if row < 0 and not self._full(text) else row

    def _full(self, text: str) -> bool:
        for old in self.index.ids[self._counted :]:  # a checkpoint fills the index from outside
            self._bytes += len((old or "").encode()) + TOKEN_BYTES
        self._counted = self.index.rows
        return self.index.rows >= self.max_rows or self._bytes + len(text.encode()) + TOKEN_BYTES > MAX_BYTES

    def tokens(self) -> list[Token]:
        """All tokens in row order."""
        return [token(text) for text in self.index.ids if text is not None]


class Owners:
    """Each owner row's tokens, and their sums, kept while the token table stands still."""

    def __init__(self, dim: int, max_tokens: int = MAX_ROWS) -> None:
        self.vocabulary = Vocabulary(max_tokens)
        self.lists: list[I64] = []
        self.sums = torch.zeros(16, dim)  # [capacity, D]
        self.stale = np.ones(16, bool)  # [capacity]

    def __deepcopy__(self, memo: Any) -> "Owners":
        copied = Owners(self.sums.shape[1], self.vocabulary.max_rows)
        copied.vocabulary = copy.deepcopy(self.vocabulary, memo)
        copied.lists = list(self.lists)  # an owner's tokens are replaced, never changed
        copied.sums, copied.stale = self.sums.clone(), self.stale.copy()
        return copied

    def set(self, owner: int, rows: I64) -> None:
        """Give an owner its tokens."""
        while owner >= len(self.lists):
            self.lists.append(NONE)
        if owner >= len(self.stale):
            self.stale = doubled(self.stale, owner + 1, 1)
            larger = torch.zeros(len(self.stale), self.sums.shape[1])
            larger[: len(self.sums)] = self.sums
            self.sums = larger
        self.lists[owner] = rows
        self.stale[owner] = True

    def flat(self, owners: I64) -> tuple[I64, I64]:
        """Token rows of owners [n] one after the other, and how many each has [n]; owner -1 has none."""
        lists = [self.lists[o] if 0 <= o < len(self.lists) else NONE for o in owners.tolist()]
        lengths = np.fromiter(map(len, lists), np.int64, len(lists))
        return (np.concatenate(lists) if lists else NONE), lengths

    def sums_of(self, owners: I64, table: Rows) -> Tensor:
        """Token sums [n, D] of owners [n]; owners without tokens give zero."""
        known = (owners >= 0) & (owners < len(self.lists))
        at = np.where(known, owners, 0)
        old = np.unique(at[known & self.stale[at]])
        if len(old):
            flat, lengths = self.flat(old)
            self.sums[old] = token_sums(table.values, torch.from_numpy(flat), torch.from_numpy(lengths))
            self.stale[old] = False
        sums = self.sums[torch.from_numpy(at)]  # [n, D]
        return sums if known.all() else sums * torch.from_numpy(known).unsqueeze(1)

    def moved(self) -> None:
        """The token table has changed: every sum is to be made anew."""
        self.stale[:] = True
