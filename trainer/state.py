"""All that the trainer knows: two models on one set of id maps, counts, what users liked, what is not published yet.

`live` learns with every sample; `full` is the last full model, from which the next full update starts. Both use the
same row numbers. Every array here is by user row or item row and grows with its index.
"""

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from trainer.evaluate import POPULARITY_HALF_LIFE, Positives, Recall
from trainer.frequency import Counts
from trainer.model import ID_TABLES, Model, tower
from trainer.negatives import Drops
from trainer.prior import Prior
from trainer.table import Index, doubled
from trainer.tokens import Owners, Vocabulary

EXPIRED_AT_ONCE = 100  # one in so many rows goes when a table is full


class State:
    """What learning changes; `catalogue`, `profile` and `forget_...` bring in what the other topics say."""

    def __init__(
        self, dim: int, bags: int, hidden: int, half_life: float, prior: Prior, seed: int, max_tokens: int
    ) -> None:
        self.live = Model(dim, bags, hidden, seed)
        self.full = Model(dim, bags, hidden, seed)
        self.users, self.items, self.profiles = Index(), Index(), Index()
        self.profile_tokens, self.item_tokens = Owners(dim, max_tokens), Owners(dim, max_tokens)
        self.context = Vocabulary(max_tokens)
        self.counts, self.popularity = Counts(half_life), Counts(POPULARITY_HALF_LIFE)
        self.prior = prior
        self.sent = np.zeros((16, 2))  # [capacity, 2] count as published, and the click number it is as of
        self.positives, self.recall, self.drops = Positives(), Recall(), Drops()
        self.rng = np.random.default_rng(seed)
        self.flags = {
            "users.touched": np.zeros(16, bool),  # changed since the last delta
            "users.profiled": np.zeros(16, bool),  # has a record on `profiles`
            "items.touched": np.zeros(16, bool),
            "items.listed": np.zeros(16, bool),  # has a record on `catalogue`
            "items.alive": np.zeros(16, bool),  # a candidate: listed, or clicked
        }
        self.last_seen = {name: np.zeros(16) for name in ID_TABLES}  # click number of the last sample
        self.vectors = torch.zeros(16, dim)  # [capacity, D] of the live model, where not stale
        self.stale = np.ones(16, bool)
        self.of_row = np.full(16, -1, np.int64)  # scratch, see loss.accidental
        self.digests = np.zeros(16, np.int64)  # of an item's tokens: has the record on `catalogue` changed?
        self.withdrawn: set[str] = set()  # deleted items: clicks on them that are still on their way are not learned
        self.deleted: dict[str, set[str]] = {"users": set(), "items": set()}  # since the last delta
        self.numbers = {"samples": 0, "full_updates": 0, "candidates": 0, "event_ms": 0, "arrival_ms": 0}

    # ---- growth ------------------------------------------------------------------------------------------------------

    def user(self, text: str) -> int:
        """Row of a user, a new one if needed; call `grow` before the row is used."""
        return self.users.admit(text)

    def item(self, text: str) -> int:
        """Row of an item, a new one if needed; call `grow` before the row is used."""
        return self.items.admit(text)

    def grow(self) -> None:
        """Make everything as large as its index."""
        for name, index in (("users", self.users), ("items", self.items)):
            self.last_seen[name] = doubled(self.last_seen[name], index.rows)
            for flag in [f for f in self.flags if f.startswith(name)]:
                self.flags[flag] = doubled(self.flags[flag], index.rows)
        sizes = {
            "users": self.users.rows,
            "items": self.items.rows,
            "profile": self.profile_tokens.vocabulary.index.rows,
            "context": self.context.index.rows,
            "item_features": self.item_tokens.vocabulary.index.rows,
        }
        for model in (self.live, self.full):
            for name, rows in sizes.items():
                model.tables[name].grow(rows)
        self.counts.grow(self.items.rows)
        self.popularity.grow(self.items.rows)
        self.prior.grow(self.items.rows)
        self.sent = doubled(self.sent, self.items.rows)
        self.stale = doubled(self.stale, self.items.rows, 1)
        self.of_row = doubled(self.of_row, self.items.rows, -1)
        self.digests = doubled(self.digests, self.items.rows)
        if len(self.stale) > len(self.vectors):
            larger = torch.zeros(len(self.stale), self.vectors.shape[1])
            larger[: len(self.vectors)] = self.vectors
            self.vectors = larger

    # ---- what the other topics say -----------------------------------------------------------------------------------

    def catalogue(self, item_id: str, features: Mapping[str, Any]) -> None:
        """Take an item's features; it becomes a candidate at once."""
        row = self.item(item_id)
        rows = self.item_tokens.vocabulary.admit(features)
        self.grow()
        self.item_tokens.set(row, rows)
        self.withdrawn.discard(item_id)
        digest = zlib.crc32(rows.tobytes())
        if self.flags["items.listed"][row] and self.digests[row] == digest:
            return
        self.digests[row] = digest
        for flag in ("touched", "listed", "alive"):
            self.flags[f"items.{flag}"][row] = True
        self.stale[row] = True

    def profile(self, user_id: str, features: Mapping[str, Any]) -> None:
        """Take a user's features."""
        owner = self.profiles.admit(user_id)
        self.profile_tokens.set(owner, self.profile_tokens.vocabulary.admit(features))
        self.grow()
        row = self.users.get(user_id)
        if row >= 0:
            self.flags["users.profiled"][row] = True

    def forget_user(self, user_id: str) -> None:
        """Free everything known of a user."""
        owner = self.profiles.forget(user_id)
        if owner >= 0:
            self.profile_tokens.set(owner, np.zeros(0, np.int64))
        self.drops.by_user.pop(user_id, None)
        self._free("users", self.users, user_id)

    def forget_items(self, item_ids: list[str]) -> None:
        """Free everything known of some items."""
        rows = {self.items.get(item_id) for item_id in item_ids} - {-1}
        self.withdrawn.update(item_ids)
        self.positives.forget_items(rows)
        for item_id in item_ids:
            row = self._free("items", self.items, item_id)
            if row >= 0:
                self.item_tokens.set(row, np.zeros(0, np.int64))
                self.counts.clear(row)
                self.prior.clear(row)
                self.sent[row] = 0
                self.popularity.clear(row)
                self.stale[row] = True

    def _free(self, name: str, index: Index, text: str) -> int:
        row = index.forget(text)
        if row < 0:
            return row
        for model in (self.live, self.full):
            model.tables[name].clear(row)
        for flag in [f for f in self.flags if f.startswith(name)]:
            self.flags[flag][row] = False
        self.last_seen[name][row] = 0
        self.deleted[name].add(text)
        if name == "users":
            self.positives.by_user.pop(row, None)
        return row

    def expire(self, max_users: int, max_items: int) -> None:
        """Free the rows longest unseen where a table holds more than its bound; unlisted items go before listed."""
        for name, index, bound in (("users", self.users, max_users), ("items", self.items, max_items)):
            if len(index) <= bound:
                continue
            rows = np.fromiter(index.row_of.values(), np.int64, len(index))
            listed = self.flags["items.listed"][rows] if name == "items" else np.zeros(len(rows), bool)
            oldest = rows[np.lexsort((rows, self.last_seen[name][rows], listed))]
            gone = [index.ids[row] for row in oldest[: len(index) - bound + bound // EXPIRED_AT_ONCE]]
            texts = [text for text in gone if text is not None]
            if name == "items":
                self.forget_items(texts)
                self.withdrawn.difference_update(texts)
            for text in texts if name == "users" else ():
                self._free("users", self.users, text)

    # ---- vectors -----------------------------------------------------------------------------------------------------

    def fresh_vectors(self) -> torch.Tensor:
        """Unit vectors [rows, D] of all items under the live model, made anew where something changed."""
        rows = np.flatnonzero(self.stale[: self.items.rows])
        if len(rows):
            self.vectors[rows] = self.item_vectors(rows)
            self.stale[rows] = False
        return self.vectors[: self.items.rows]

    def item_vectors(self, rows: np.ndarray) -> torch.Tensor:
        """Unit vectors [n, D] of item rows [n] under the live model."""
        own = self.live.tables["items"].values[torch.from_numpy(rows)]  # [n, D]
        features = self.item_tokens.sums_of(rows, self.live.tables["item_features"])  # [n, D]
        return tower(torch.cat([own, features], dim=1), self.live.layers, "item")

    def all_moved(self) -> None:
        """Every parameter of the live model may have changed: nothing derived from it holds."""
        self.stale[:] = True
        self.profile_tokens.moved()
        self.item_tokens.moved()
