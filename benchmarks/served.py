"""What a server answers from when it was last synchronised some time ago, beside a learner that is up to date.

Event time, sync every 10 min; a view is taken again at the first block that has a sample past the next border:

    sync              10:00                10:10                10:20
    blocks learned  ....|......|......|.....|..|......|......|....
    sample of 10:17 is scored by what had been learned, counted and clicked at 10:10

A block is learned at once, so "at 10:10" means the last block that ended before it. Three parts can be stale, each on
its own: tables (item vectors, user rows, towers), counts (the prior with its weights), histories (the user's clicks).
An item is a candidate as soon as any part that is served knows it: with stale tables and fresh counts a new item has no
vector yet (cos 0) but a prior.

B batch, D dim, L history, m bags, N items; n rows known at the sync.
"""

from bisect import bisect_left
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from contract.messages import Sample
from trainer.batch import Batch
from trainer.evaluate import ranks
from trainer.frequency import F64, I64
from trainer.learner import Learner, Pairs
from trainer.model import bags, decay_weights, token_sums, tower
from trainer.tokens import UNKNOWN

F32 = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]
NEVER_MS = 0  # sync interval of a view that stays as it was first taken
TABLES = ("users", "items", "profile", "context")
PARTS = frozenset(("tables", "counts", "histories"))


class Rings:
    """All clicks of each user in order: what a history was at any earlier moment."""

    def __init__(self) -> None:
        self.times: dict[str, list[int]] = {}
        self.items: dict[str, list[str]] = {}

    def add(self, samples: list[Sample]) -> None:
        """Take what the samples' histories show that is new."""
        for sample in samples:
            times, items = self.times.setdefault(sample.user_id, []), self.items.setdefault(sample.user_id, [])
            last = times[-1] if times else -1
            equal = set(items[bisect_left(times, last) :])
            new = []
            for entry in reversed(sample.history):
                if entry.ts_ms < last:
                    break
                if entry.ts_ms > last or entry.item_id not in equal:
                    new.append(entry)
            times += [entry.ts_ms for entry in reversed(new)]
            items += [entry.item_id for entry in reversed(new)]

    def before(self, user: str, ts_ms: int, length: int) -> list[str]:
        """Items clicked before a moment, newest first, at most `length`."""
        end = bisect_left(self.times.get(user, []), ts_ms)
        return self.items[user][max(end - length, 0) : end][::-1] if end else []


@dataclass(frozen=True)
class Tables:
    """Rows, towers and item vectors as of a sync."""

    rows: dict[str, Tensor]  # by table
    known: dict[str, int]  # rows in use at the sync, by table
    layers: dict[str, Tensor]
    vectors: Tensor  # [n, D]
    alive: Flags  # [n]


@dataclass(frozen=True)
class Counted:
    """The prior as of a sync."""

    added: F64  # [n]
    unclicked: float  # prior of an item without a click
    alive: Flags  # [n]


def tables_of(learner: Learner, *, copied: bool) -> Tables:
    """Tables of the live model; without `copied` they go on changing as it learns."""
    state, live = learner.state, learner.state.live
    known = {"users": state.users.rows, "items": state.items.rows, "context": state.context.index.rows}
    known["profile"] = state.profile_tokens.vocabulary.index.rows
    found = Tables(
        {name: live.tables[name].values for name in TABLES},
        known,
        live.layers,
        state.fresh_vectors(),
        state.flags["items.alive"][: known["items"]],
    )
    if not copied:
        return found
    return Tables(
        {name: rows.clone() for name, rows in found.rows.items()},
        known,
        {name: layer.clone() for name, layer in found.layers.items()},
        found.vectors.clone(),
        found.alive.copy(),
    )


def counted_of(learner: Learner) -> Counted:
    """Priors of all items as of now."""
    state, model, rows = learner.state, learner.model, learner.state.items.rows
    alive = state.flags["items.alive"][:rows].copy()
    if model.correction != "prior":
        return Counted(np.zeros(rows), 0.0, alive)
    weight = float(state.prior.betas.sum()) if state.prior.mixed else model.prior_weight
    return Counted(learner.prior(slice(0, rows)).copy(), weight * float(np.log(model.prior_epsilon)), alive)


def user_vectors(learner: Learner, served: Tables, batch: Batch) -> Tensor:
    """User vectors [B, D] as the server makes them from these tables; who has no row yet has a zero one."""
    user = torch.from_numpy(batch.user)  # [B]
    has_row = user < served.known["users"]  # [B]
    own = served.rows["users"][torch.where(has_row, user, 0)] * has_row.unsqueeze(1)  # [B, D]
    batch = _known_only(batch, served.alive)
    weights = decay_weights(batch.history_lengths, learner.model.history_decays)  # m of [P]
    bag = bags(served.rows["items"], torch.from_numpy(batch.history), batch.history_lengths, weights)  # [B, m * D]
    flat, lengths = learner.state.profile_tokens.flat(batch.profile)
    profile = token_sums(served.rows["profile"], torch.from_numpy(flat), torch.from_numpy(lengths))  # [B, D]
    tokens = torch.from_numpy(np.where(batch.context < served.known["context"], batch.context, UNKNOWN))
    context = token_sums(served.rows["context"], tokens, torch.from_numpy(batch.context_lengths))  # [B, D]
    return tower(torch.cat([own, bag, profile, context], dim=1), served.layers, "user")


def scores_of(learner: Learner, users: Tensor, tables: Tables, counted: Counted) -> tuple[F32, Flags]:
    """Scores [B, N] of all items that the learner knows, -inf for what is no candidate; and candidates [N]."""
    items = learner.state.items.rows
    if learner.model.correction == "prior":
        users = users / learner.model.temperature  # [B, D]
    candidates, added = np.zeros(items, bool), np.full(items, counted.unclicked)  # [N]
    candidates[: len(tables.alive)] |= tables.alive
    candidates[: len(counted.alive)] |= counted.alive
    added[: len(counted.added)] = counted.added
    added[~candidates] = -np.inf
    scores: F32 = np.zeros((len(users), items), np.float32)  # [B, N]
    scores[:, : len(tables.vectors)] = (users @ tables.vectors.T).numpy()
    scores += added.astype(np.float32)
    return scores, candidates


def with_histories(batch: Batch, histories: list[list[int]]) -> Batch:
    """The batch with other histories: item rows, newest first, -1 unknown."""
    lengths = np.array([len(one) for one in histories], np.int64)
    return replace(
        batch, history=np.array([row for one in histories for row in one], np.int64), history_lengths=lengths
    )


def _known_only(batch: Batch, alive: Flags) -> Batch:
    """The batch with those items left out of its histories that are not alive [n]: the server knows no row of them."""
    kept = (batch.history >= 0) & (batch.history < len(alive))  # [P]
    kept[kept] = alive[batch.history[kept]]
    if kept.all():
        return batch
    owner = np.repeat(np.arange(len(batch)), batch.history_lengths)[kept]
    return replace(batch, history=batch.history[kept], history_lengths=np.bincount(owner, minlength=len(batch)))


class View:
    """One server: which of its parts are stale, by how much at most, and the ranks that its answers gave."""

    def __init__(self, name: str, sync_ms: int, stale: frozenset[str], begun_ms: int, learner: Learner) -> None:
        """Synchronise for the first time at `begun_ms`; `stale`: some of PARTS."""
        self.name, self.sync_ms, self.stale, self.begun_ms = name, sync_ms, stale, begun_ms
        self.border_ms = int(self.borders(np.array([begun_ms]))[0])  # of the sync that is served
        self._synchronise(learner)

    def borders(self, now_ms: I64) -> I64:
        """Event time [B] of the newest sync at each moment."""
        if self.sync_ms == NEVER_MS:
            return np.full(len(now_ms), self.begun_ms, np.int64)
        return now_ms // self.sync_ms * self.sync_ms

    def ranks(self, learner: Learner, batch: Batch, known: I64, pairs: Pairs, rings: Rings, now_ms: I64) -> I64:
        """Rank [B] of each sample's item by what is served at its moment `now_ms` [B]; call before it is learned."""
        borders = self.borders(now_ms)
        later = borders > self.border_ms
        seen = self._with_histories(learner, batch, rings, borders)
        found = np.empty(len(batch), np.int64)
        if not later.all():
            found = self._ranked(learner, seen, known, pairs)
        if later.any():
            self.border_ms = int(borders.max())
            self._synchronise(learner)
            found = np.where(later, self._ranked(learner, seen, known, pairs), found)
        return found

    def _synchronise(self, learner: Learner) -> None:
        self._tables = tables_of(learner, copied=True) if "tables" in self.stale else None
        self._counted = counted_of(learner) if "counts" in self.stale else None

    def _with_histories(self, learner: Learner, batch: Batch, rings: Rings, borders: I64) -> Batch:
        if "histories" not in self.stale:
            return batch
        row, length = learner.state.items.get, learner.length
        old = [
            [row(item) for item in rings.before(sample.user_id, border, length)]
            for sample, border in zip(batch.samples, borders.tolist(), strict=True)
        ]
        return with_histories(batch, old)

    def _ranked(self, learner: Learner, batch: Batch, known: I64, pairs: Pairs) -> I64:
        tables = self._tables or tables_of(learner, copied=False)
        counted = self._counted or counted_of(learner)
        scores, candidates = scores_of(learner, user_vectors(learner, tables, batch), tables, counted)
        places, items, ts_ms = pairs
        earlier = (ts_ms < batch.ts_ms[places]) & candidates[items]
        item = np.where((known >= 0) & candidates[known], known, -1)  # [B]
        return ranks(scores, item, (places[earlier], items[earlier]))
