"""Speed of one incremental step, against torch's own sparse Adagrad on the same model, batches and candidates.

`python benchmarks/bench_learning.py [--rounds 7]` prints one JSON line. A made-up world: 20,000 users, 7,500 items in
50 tastes with Zipf popularity, histories of up to 20, eight profile and four item features, the default settings.
Rounds of both are interleaved, so that a busy machine hurts both; figures are medians of samples per CPU second and
per wall second, one thread. recall_at_50 of both over the whole catalogue, on samples that neither has seen, stands
beside them. `step_` figures include scoring against the whole catalogue, and counting.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from contract import settings
from contract.messages import HistoryEntry, Sample
from trainer.batch import Batch
from trainer.epoch import full_update
from trainer.evaluate import ranks
from trainer.learner import Learner
from trainer.loss import accidental, sampled_softmax
from trainer.model import bags, decay_weights, tower
from trainer.negatives import Drawn

USERS, ITEMS, TASTES, LENGTH = 20_000, 7_500, 50, 20
WARM_UP, BATCHES, HELD_OUT = 20_000, 40, 5_000


def world(n: int) -> list[Sample]:
    """Clicks in time order; a user's clicks are of her taste four times in five."""
    rng = np.random.default_rng(1)
    weights = 1 / np.arange(1, ITEMS + 1)
    popular = rng.choice(ITEMS, n, p=weights / weights.sum())
    users = (rng.pareto(1.2, n) * 200).astype(int) % USERS
    own = rng.random(n) < 0.8
    histories: dict[int, list[HistoryEntry]] = {}
    made = []
    for k, (user, item) in enumerate(zip(users.tolist(), popular.tolist(), strict=True)):
        chosen = (item // TASTES) * TASTES + user % TASTES if own[k] else item
        chosen = min(chosen, ITEMS - 1)
        history = histories.setdefault(user, [])
        ts_ms = 1_650_844_800_000 + k * 100
        context = {"page": str(k % 5)}
        made.append(
            Sample(f"u{user}", "", ts_ms, f"i{chosen}", ts_ms, "click", 0, history[-LENGTH:], context, ts_ms, k, k)
        )
        history.append(HistoryEntry(f"i{chosen}", ts_ms, "click"))
    return made


def learner() -> Learner:
    """The default learner with every feature known."""
    made = Learner(settings.Model(), settings.Train(), settings.Full(), LENGTH)
    for item in range(ITEMS):
        made.state.catalogue(f"i{item}", {f"f{n}": str(item * (n + 7) % 97) for n in range(4)})
    for user in range(USERS):
        made.state.profile(f"u{user}", {f"f{n}": str(user * (n + 5) % 31) for n in range(8)})
    return made


def embedding(values: Tensor) -> torch.nn.Embedding:
    """Sparse embedding table that starts from some values."""
    made = torch.nn.Embedding(values.shape[0], values.shape[1], sparse=True)
    with torch.no_grad():
        made.weight.copy_(values)
    return made


class TorchSparse:
    """The same towers and loss with nn.Embedding(sparse=True) tables and torch.optim.Adagrad."""

    def __init__(self, source: Learner) -> None:
        self.source, tables = source, source.state.live.tables
        self.users, self.items = embedding(tables["users"].values), embedding(tables["items"].values)
        rate, train = source.train.learning_rate * source.train.incremental_rate, source.train
        groups = [
            {"params": self.users.parameters(), "lr": rate * train.user_rate},
            {"params": self.items.parameters(), "lr": rate},
        ]
        self.optimizer = torch.optim.Adagrad(groups, initial_accumulator_value=1e-6)

    def learn(self, batch: Batch) -> None:
        """One step, as `Learner.learn` does without hard negatives."""
        source, state, train = self.source, self.source.state, self.source.train
        counts = state.counts.decayed(slice(0, state.items.rows))
        drawn_from = Drawn(counts)
        drawn = drawn_from.draw(train.negatives, state.rng)
        candidates, times = np.unique(np.concatenate([batch.item, drawn]), return_counts=True)
        places = np.searchsorted(candidates, batch.item)
        a = self.user_vectors(batch)  # [B, D]
        own = self.items(torch.from_numpy(candidates))  # [U, D]
        features = state.item_tokens.sums_of(candidates, state.live.tables["item_features"])  # [U, D]
        b = tower(torch.cat([own, features], dim=1), state.live.layers, "item")  # [U, D]
        known_sample, known_item, _ = state.positives.pairs(batch.user)
        loss = sampled_softmax(
            a @ b.T,
            torch.from_numpy(places),
            torch.from_numpy(accidental(places, known_sample, known_item, candidates, state.of_row)),
            torch.from_numpy(source._bias(counts, candidates, drawn_from, len(drawn), len(batch))),  # noqa: SLF001
            torch.from_numpy(times.astype(np.float32)),
            source.model.temperature,
            torch.ones(len(batch)),
        )
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()

    def user_vectors(self, batch: Batch) -> Tensor:
        """User vectors [B, D]."""
        source, tables = self.source, self.source.state.live.tables
        weights = decay_weights(batch.history_lengths, source.model.history_decays)
        taken, places = self.items(torch.from_numpy(batch.history)), torch.arange(len(batch.history))
        bag = bags(taken, places, batch.history_lengths, weights)  # [B, m * D]
        profile = source.state.profile_tokens.sums_of(batch.profile, tables["profile"])  # [B, D]
        context = source._context(tables["context"].values, torch.from_numpy(batch.context), batch)  # noqa: SLF001
        parts = [self.users(torch.from_numpy(batch.user)), bag, profile, context]
        return tower(torch.cat(parts, dim=1), source.state.live.layers, "user")


def timed(work: Callable[[Batch], object], batches: list[Batch]) -> tuple[float, float]:
    """Samples per CPU second and per wall second."""
    n = sum(map(len, batches))
    cpu, wall = time.process_time(), time.perf_counter()
    for batch in batches:
        work(batch)
    return n / (time.process_time() - cpu), n / (time.perf_counter() - wall)


def recall_at_50(target: Learner, batch: Batch) -> float:
    """Share of held-out samples whose item is among the first 50 of the whole catalogue."""
    nothing = np.zeros(0, np.int64)
    found = ranks(target.scores(target.user_vectors(batch)), batch.item, (nothing, nothing))
    return round(float((found <= 50).mean()), 4)


def put(target: Learner, values: dict[str, Tensor]) -> None:
    """Give a learner other ID rows."""
    for name, rows in values.items():
        target.state.live.tables[name].values = rows
    target.state.all_moved()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    size = settings.Train().batch
    made = world(WARM_UP + rounds * BATCHES * size + HELD_OUT)
    ours = learner()
    for n in range(0, WARM_UP, size):
        ours.step(list(made[n : min(n + size, WARM_UP)]))
    full_update(ours, made[:WARM_UP], [])
    blocks = [made[n : n + size] for n in range(WARM_UP, len(made) - HELD_OUT, size)]
    batches = [ours.batch(block) for block in blocks]
    held_out = ours.batch(made[-HELD_OUT:])  # its users and items get rows before the tables are copied
    theirs = TorchSparse(ours)  # starts from the same tables, keeps its own
    found: dict[str, list[tuple[float, float]]] = {"learn": [], "torch_sparse": [], "step": []}

    def learn(batch: Batch) -> None:
        ours.learn(ours.state.live, batch, ours.state.positives.pairs(batch.user), everything=False)

    for n in range(rounds):
        part = batches[n * BATCHES : (n + 1) * BATCHES]
        found["torch_sparse"].append(timed(theirs.learn, part))
        found["learn"].append(timed(learn, part))
    figures: dict[str, float] = {"recall_at_50": recall_at_50(ours, held_out)}
    own = {name: ours.state.live.tables[name].values for name in ("users", "items")}
    put(ours, {"users": theirs.users.weight.detach().clone(), "items": theirs.items.weight.detach().clone()})
    figures["torch_sparse_recall_at_50"] = recall_at_50(ours, held_out)
    put(ours, own)
    for n in range(rounds):
        found["step"].append(timed(lambda b: ours.step(list(b.samples)), batches[n * BATCHES : (n + 1) * BATCHES]))
    for name, pairs in found.items():
        figures[f"{name}_samples_per_cpu_second"] = round(statistics.median(cpu for cpu, _ in pairs))
        figures[f"{name}_samples_per_second"] = round(statistics.median(wall for _, wall in pairs))
    print(json.dumps({"benchmark": "learning", "rounds": rounds, "batch": size, "items": ITEMS, **figures}))


if __name__ == "__main__":
    main()
