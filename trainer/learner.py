"""The learner: samples in, both towers change; no Kafka, no clock. The live trainer and offline evaluation run this.

    learner.step(samples)      scores them, learns them incrementally (ID tables only), counts them
    learner.again(model, ..)   learns samples that were scored and counted before: what a full update does (epoch.py)

B batch, D dim, L history, m bags, N items, U distinct candidates, H hard negatives.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from contract import settings
from contract.messages import HardNegatives, Sample
from trainer.batch import Batch, build, kept
from trainer.evaluate import popularity_ranks, ranks
from trainer.frequency import F64, I64, log_q
from trainer.loss import accidental, candidate_bias, sampled_softmax
from trainer.model import Model, bags, decay_weights, token_sums, tower
from trainer.negatives import Drawn
from trainer.optimizer import gradient_of, leaf, step_layer, step_rows
from trainer.prior import Prior
from trainer.self_supervision import Catalogue, Plan, self_loss
from trainer.state import State
from trainer.table import START_ACC, Rows
from trainer.tokens import NONE

UNTOUCHED_ACC = 1.01 * START_ACC  # above it a row has had a gradient
PRIOR_SAMPLES = 64  # of a batch, from which the prior learns
ITEM_START = 0.1  # standard deviation of an item-ID row when the item is first learned


Pairs = tuple[I64, I64, I64]  # place in the batch, item row, ts_ms: [P] each


@dataclass
class Gathered:
    """Distinct rows of one table, as a leaf, and the places of what was asked for."""

    table: Rows
    rows: Tensor  # [n]
    places: Tensor  # as asked
    values: Tensor  # [n, D]

    def learn(self, rate: float) -> None:
        """Write the rows back, moved against their gradient."""
        step_rows(self.table, self.rows, self.values.detach(), gradient_of(self.values), rate)


def gather(table: Rows, asked: I64) -> Gathered:
    """Distinct rows of those asked for, in row order; a row of -1 has the place -1."""
    known = asked >= 0
    marked = np.zeros(len(table.values), bool)
    marked[asked[known]] = True
    rows = np.flatnonzero(marked)
    place = np.empty(len(marked), np.int64)
    place[rows] = np.arange(len(rows))
    at = torch.from_numpy(rows)
    return Gathered(table, at, torch.from_numpy(np.where(known, place[asked], -1)), leaf(table.values[at]))


class Learner:
    """A `State` and the rules by which samples change it."""

    def __init__(self, model: settings.Model, train: settings.Train, full: settings.Full, history_length: int) -> None:
        self.model, self.train, self.full, self.length = model, train, full, history_length
        bag_count = len(model.history_decays)
        half_life = model.prior_half_life_clicks
        mixed = model.correction == "prior" and bool(model.prior_half_lives) and model.prior_weight > 0
        prior = Prior(
            model.prior_half_lives or [half_life], half_life, model.prior_weight, model.prior_epsilon, mixed=mixed
        )
        self.state = State(model.dim, bag_count, model.hidden, half_life, prior, train.seed, train.max_token_rows)
        self.ranks = NONE  # of the last step's records [n]: each first click's rank among all candidates, else 0
        self.popularity_ranks = NONE  # likewise [n], by popularity
        self.beside: Model | None = None  # scores what the live model scores, and is not served
        self.beside_ranks = NONE  # likewise [n]

    # ---- one step ----------------------------------------------------------------------------------------------------

    def step(self, records: list[Sample | HardNegatives]) -> float | None:
        """Score, learn incrementally and count some records in order; give the loss, None without samples."""
        for record in records:
            if isinstance(record, HardNegatives):
                self.state.drops.add(record.user_id, record.items)
        state = self.state
        state.numbers["samples"] += sum(isinstance(r, Sample) for r in records)
        chosen = [n for n, r in enumerate(records) if isinstance(r, Sample) and r.item_id not in state.withdrawn]
        samples = [s for n in chosen if isinstance(s := records[n], Sample)]
        self.ranks, self.popularity_ranks, self.beside_ranks = np.zeros((3, len(records)), np.int64)
        if not samples:
            return None
        known = np.array([state.items.get(s.item_id) for s in samples], np.int64)  # [B], -1 new
        batch = self.batch(samples)
        first = state.positives.add(batch.user, batch.item, batch.ts_ms)
        pairs = state.positives.pairs(batch.user)  # three of [P]
        found = self._score(batch, known, first, pairs)
        self.ranks[chosen], self.popularity_ranks[chosen], self.beside_ranks[chosen] = found
        loss = self.learn(state.live, batch, pairs, everything=False)
        self._count(batch, first)
        state.expire(self.train.max_user_rows, self.train.max_item_rows)
        return loss

    def batch(self, samples: list[Sample]) -> Batch:
        """Arrays of some samples; their users, items and context tokens get rows."""
        state = self.state
        items, profiles = state.items.row_of, state.profiles.row_of
        batch = build(
            samples,
            state.user,
            state.item,
            lambda text: items.get(text, -1),
            lambda text: profiles.get(text, -1),
            state.context.admit_often,
            self.length,
        )
        state.grow()
        return batch

    def _score(self, batch: Batch, known: I64, first: np.ndarray, pairs: Pairs) -> tuple[I64, I64, I64]:
        """Rank each first click among all candidates, before it is learned.

        Gives the ranks [B] by the live model, by popularity and by the model beside it; 0 where there is none.
        """
        state, none = self.state, np.zeros(len(batch), np.int64)
        if not first.any():
            return none, none, none
        alive = state.flags["items.alive"][: state.items.rows]  # [N]
        places, items, ts_ms = pairs
        earlier = (ts_ms < batch.ts_ms[places]) & alive[items]
        left_out = places[earlier], items[earlier]
        item = np.where((known >= 0) & alive[known], known, -1)  # [B]
        beside = none if self.beside is None else self._rank_by(self.beside, batch, item, left_out)
        model, cosines = self._rank(batch, item, left_out)
        counts = state.popularity.decayed(slice(0, state.items.rows))
        popularity = popularity_ranks(counts, alive, item, left_out)
        state.recall.add(model[first], popularity[first])
        self._learn_prior(cosines, item, alive)
        return np.where(first, model, 0), np.where(first, popularity, 0), np.where(first, beside, 0)

    def _rank(self, batch: Batch, item: I64, left_out: tuple[I64, I64]) -> tuple[I64, np.ndarray]:
        """Ranks [B] of item rows [B], and the cosines [B, N] behind them."""
        cosines = self.cosines(self.user_vectors(batch))  # [B, N]
        return ranks(cosines + self._added(), item, left_out), cosines

    def _rank_by(self, model: Model, batch: Batch, item: I64, left_out: tuple[I64, I64]) -> I64:
        """Ranks [B] as if another model were live; everything derived is made for it and back again."""
        state, live = self.state, self.state.live
        for name, rows in live.tables.items():
            model.tables[name].grow(len(rows.values))
        state.live = model
        state.all_moved()
        found, _ = self._rank(batch, item, left_out)
        state.live = live
        state.all_moved()
        return found

    def scores(self, users: Tensor) -> np.ndarray:
        """Served scores [n, N] of all item rows for user vectors [n, D]; -inf for what is no candidate."""
        scores: np.ndarray = self.cosines(users) + self._added()
        return scores

    def cosines(self, users: Tensor) -> np.ndarray:
        """Cosines [n, N] of user vectors [n, D] and all item rows; over the temperature where there is a prior."""
        if self.model.correction == "prior":
            users = users / self.model.temperature  # [n, D]
        found: np.ndarray = (users @ self.state.fresh_vectors().T).numpy()  # [n, N]
        return found

    def _added(self) -> np.ndarray:
        """What is added to the cosine of each item row [N]; -inf for what is no candidate."""
        state, rows = self.state, self.state.items.rows
        alive = state.flags["items.alive"][:rows]
        bias = self.prior(slice(0, rows)) if self.model.correction == "prior" else np.zeros(rows)  # [N]
        bias[~alive] = -np.inf
        return bias.astype(np.float32)

    def prior(self, rows: I64 | slice) -> F64:
        """Prior [n] of some rows."""
        if self.state.prior.mixed:
            return self.state.prior.logs(rows)
        counts: F64 = self.model.prior_weight * np.log(self.state.counts.decayed(rows) + self.model.prior_epsilon)
        return counts

    def _learn_prior(self, cosines: np.ndarray, item: I64, alive: np.ndarray) -> None:
        """Let the half-lives' weights learn from some samples of the batch, before it is counted."""
        at = np.flatnonzero(item >= 0)
        if not self.state.prior.mixed or not self.model.prior_rate or not len(at):
            return
        at = self.state.rng.choice(at, min(PRIOR_SAMPLES, len(at)), replace=False)
        whole = min(PRIOR_SAMPLES, self.train.batch)
        self.state.prior.learn(cosines[at], item[at], alive, self.model.prior_rate, len(at) / whole)

    def user_vectors(self, batch: Batch) -> Tensor:
        """User vectors [B, D] under the live model, as the server would make them."""
        state, tables = self.state, self.state.live.tables
        own = tables["users"].values[torch.from_numpy(batch.user)]  # [B, D]
        bag = self._bags(tables["items"].values, torch.from_numpy(batch.history), batch)  # [B, m * D]
        profile = state.profile_tokens.sums_of(batch.profile, tables["profile"])  # [B, D]
        context = self._context(tables["context"].values, torch.from_numpy(batch.context), batch)  # [B, D]
        return tower(torch.cat([own, bag, profile, context], dim=1), state.live.layers, "user")

    def _context(self, rows: Tensor, flat: Tensor, batch: Batch) -> Tensor:
        return token_sums(rows, flat, torch.from_numpy(batch.context_lengths))

    def _count(self, batch: Batch, first: np.ndarray) -> None:
        state = self.state
        state.counts.add(batch.item)
        state.prior.add(batch.item)
        state.popularity.add(batch.item[first])
        state.flags["items.alive"][batch.item] = True
        state.flags["items.touched"][batch.item] = True
        state.flags["users.profiled"][batch.user] |= batch.profile >= 0
        state.last_seen["users"][batch.user] = state.counts.now
        state.last_seen["items"][batch.item] = state.counts.now
        state.numbers["event_ms"] = max(state.numbers["event_ms"], int(batch.ts_ms.max()))
        newest = max(s.arrival_ms for s in batch.samples)
        state.numbers["arrival_ms"] = max(state.numbers["arrival_ms"], newest)

    # ---- learning ----------------------------------------------------------------------------------------------------

    def learn(
        self, model: Model, batch: Batch, pairs: Pairs, *, everything: bool, catalogue: Catalogue | None = None
    ) -> float:
        """One gradient step; with `everything` all parameters move, else only the two ID tables.

        `pairs`: what the batch's users are known to like, see `Positives.pairs`. `catalogue`: with `everything`, add
        the self-supervised loss of some of its items.
        """
        if not everything and not self.train.incremental_rate:
            return 0.0  # nothing moves, and no row gets its random start
        state, tables = self.state, model.tables
        counts = state.counts.decayed(slice(0, state.items.rows))  # [N]

        # 1. candidates: the batch's positives and drawn negatives; hard ones of each sample
        hard_sample, hard_item = self._hard_pairs(batch)  # [H], [H]
        drawn_from = Drawn(counts)
        drawn = drawn_from.draw(self.train.negatives - len(hard_item), state.rng)
        candidates, times = np.unique(np.concatenate([batch.item, drawn]), return_counts=True)  # [U]
        places = np.searchsorted(candidates, batch.item)  # [B]
        self._start(tables["items"], candidates)

        # 2. leaves: distinct rows, gathered once
        plan = self._plan(catalogue)
        compared = plan.rows if plan else NONE  # [m]
        items = gather(tables["items"], np.concatenate([candidates, hard_item, compared, batch.history]))
        users = gather(tables["users"], batch.user)
        rows = np.concatenate([candidates, hard_item])  # [U + H]
        layers = {name: leaf(layer) for name, layer in model.layers.items()} if everything else model.layers
        moving = [(items, 1.0), (users, self.train.user_rate)]
        if everything:
            flat, lengths = state.profile_tokens.flat(batch.profile)
            profile = gather(tables["profile"], flat)
            context = gather(tables["context"], batch.context)
            item_flat, item_lengths = state.item_tokens.flat(rows)
            both = np.concatenate([item_flat, plan.tokens.token]) if plan else item_flat
            features = gather(tables["item_features"], both)
            profile_sums = token_sums(profile.values, profile.places, torch.from_numpy(lengths))  # [B, D]
            context_sums = self._context(context.values, context.places, batch)  # [B, D]
            feature_sums = token_sums(
                features.values, features.places[: len(item_flat)], torch.from_numpy(item_lengths)
            )  # [U + H, D]
            moving += [(profile, 1.0), (context, 1.0), (features, 1.0)]
        else:
            profile_sums = state.profile_tokens.sums_of(batch.profile, tables["profile"])  # [B, D]
            context_sums = self._context(tables["context"].values, torch.from_numpy(batch.context), batch)  # [B, D]
            feature_sums = state.item_tokens.sums_of(rows, tables["item_features"])  # [U + H, D]

        # 3. towers
        bag = self._bags(items.values, items.places[len(rows) + len(compared) :], batch)  # [B, m * D]
        parts = [users.values[users.places], bag, profile_sums, context_sums]  # [B, .]
        a = tower(torch.cat(parts, dim=1), layers, "user")  # [B, D]
        item_own = items.values[items.places[: len(rows)]]  # [U + H, D]
        b = tower(torch.cat([item_own, feature_sums], dim=1), layers, "item")  # [U + H, D]

        # 4. loss
        mask = accidental(places, *pairs[:2], candidates, state.of_row)  # [B, U]
        bias = torch.from_numpy(self._bias(counts, rows, drawn_from, len(drawn), len(batch)))  # [U + H]
        hard = self._hard(batch, a, b[len(candidates) :], bias[len(candidates) :], hard_sample, hard_item)
        weights = kept(batch.samples, counts[batch.item], self.train.hot_item_keep_clicks, self.train.seed)  # [B]
        loss = sampled_softmax(
            a @ b[: len(candidates)].T,
            torch.from_numpy(places),
            torch.from_numpy(mask),
            bias[: len(candidates)],
            torch.from_numpy(times.astype(np.float32)),
            self.model.temperature,
            torch.from_numpy(weights.astype(np.float32)),
            hard,
        )
        # A sample pulls alike in a part of a batch and in a whole one. By the mean, one that came alone would pull as
        # hard as a whole batch, and leave so much in its rows' accumulators that they hardly move again.
        pull = loss * (len(batch) / self.train.batch)
        own = self._self_loss(plan, items, features, len(rows), len(item_flat), layers) if plan else 0.0
        (pull + own).backward()  # type: ignore[no-untyped-call]

        # 5. move what may move
        for gathered, factor in moving:
            gathered.learn(self._rate(everything=everything) * factor)
        if everything:
            self._move_layers(model, layers)
        else:
            self._touch(users.rows.numpy(), items.rows.numpy())
        return float((loss + own).detach())

    def _self_loss(
        self, plan: Plan, items: Gathered, features: Gathered, row: int, token: int, layers: dict[str, Tensor]
    ) -> Tensor:
        """Weighted self-supervised loss; its ID rows stand from place `row` on, its token rows from `token` on."""
        own = items.values[items.places[row : row + len(plan.rows)]]  # [m, D]
        rows = features.values[features.places[token:]]  # [T, D]
        return self.full.self_weight * self_loss(own, rows, plan, layers, self.model.temperature)

    def _rate(self, *, everything: bool) -> float:
        return self.train.learning_rate * (1.0 if everything else self.train.incremental_rate)

    def _move_layers(self, model: Model, leaves: dict[str, Tensor]) -> None:
        for name, layer in leaves.items():
            step_layer(model.layers[name], model.layer_acc[name], gradient_of(layer), self.full.layer_rate)

    def _touch(self, users: I64, items: I64) -> None:
        """Rows of the live model have changed: they are to be published, and the items' vectors made anew."""
        self.state.flags["users.touched"][users] = True
        self.state.flags["items.touched"][items] = True
        self.state.stale[items] = True

    def _plan(self, catalogue: Catalogue | None) -> Plan | None:
        """Items and views of one step's self-supervised loss."""
        if catalogue is None:
            return None
        return catalogue.plan(self.full.self_items, list(self.full.self_transforms), self.state.rng)

    def _hard_pairs(self, batch: Batch) -> tuple[I64, I64]:
        """Samples [H] and item rows [H] of hard negatives: at most `hard_share` of the negatives."""
        state, most = self.state, int(self.train.negatives * self.train.hard_share)
        pairs = state.drops.draw([s.user_id for s in batch.samples], most, state.rng)
        rows = [(place, state.items.get(item)) for place, item in pairs]
        known = np.array([pair for pair in rows if pair[1] >= 0], np.int64).reshape(-1, 2)
        return known[:, 0], known[:, 1]

    def _bags(self, rows: Tensor, places: Tensor, batch: Batch) -> Tensor:
        weights = decay_weights(batch.history_lengths, self.model.history_decays)  # m of [P]
        return bags(rows, places, batch.history_lengths, weights)  # [B, m * D]

    def _start(self, table: Rows, items: I64) -> None:
        """Give items that are learned for the first time a random row: two zero vectors would never move."""
        rows = torch.from_numpy(items)
        new = rows[table.acc[rows] <= UNTOUCHED_ACC]
        if len(new):
            drawn = self.state.rng.normal(0.0, ITEM_START, (len(new), self.model.dim))
            table.values[new] = torch.from_numpy(drawn.astype(np.float32))

    def _bias(self, counts: np.ndarray, rows: I64, drawn_from: Drawn, drawn: int, positives: int) -> np.ndarray:
        own, model, prior = counts[rows], self.model, self.state.prior
        expected, total = drawn_from.expected(own, drawn), float(counts.sum())
        if prior.mixed:
            bias = prior.logs(rows) - log_q(own, total, expected, positives)
            return bias.astype(np.float32)
        bias = candidate_bias(
            model.correction, own, total, expected, positives, model.prior_weight, model.prior_epsilon
        )
        return bias.astype(np.float32)

    def _hard(
        self, batch: Batch, a: Tensor, b: Tensor, bias: Tensor, samples: I64, items: I64
    ) -> tuple[Tensor, Tensor] | None:
        """Sample [H] and logit [H] of hard negatives [H, D]; what the user likes is no negative."""
        liked = self.state.positives.by_user
        users = batch.user[samples].tolist()
        good = [item not in liked.get(user, {}) for user, item in zip(users, items.tolist(), strict=True)]
        if not any(good):
            return None
        at = torch.from_numpy(np.flatnonzero(good))
        rows = torch.from_numpy(samples)[at]  # [H]
        return rows, (a[rows] * b[at]).sum(dim=1) / self.model.temperature + bias[at]

    # ---- the full update ---------------------------------------------------------------------------------------------

    def catalogue(self) -> Catalogue | None:
        """Listed items for self-supervision; None where it is off."""
        if not self.full.self_weight:
            return None
        listed = np.flatnonzero(self.state.flags["items.listed"][: self.state.items.rows])
        return Catalogue(listed, self.state.item_tokens, self.state.rng)

    def again(
        self, model: Model, samples: list[Sample], *, everything: bool, catalogue: Catalogue | None = None
    ) -> float:
        """Learn samples that were scored and counted before; gives the loss."""
        batch = self.batch(samples)
        pairs = self.state.positives.pairs(batch.user)
        return self.learn(model, batch, pairs, everything=everything, catalogue=catalogue)

    def still_known(self, samples: list[Sample]) -> list[Sample]:
        """Leave out those whose user or item was deleted since."""
        users, items = self.state.users.row_of, self.state.items.row_of
        return [s for s in samples if s.user_id in users and s.item_id in items]
