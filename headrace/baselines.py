"""What a user would get without towers, under the same protocol as the model: popularity, item-item, both, BPR-MF.

    for each block of `batch` positives: rank every one, then learn the block

rank = number of candidates that score at least as high as the positive (ties count against it), without the user's
earlier positives. Candidates are the items of the catalogue and those clicked in earlier blocks; a positive that is no
candidate is a miss.

B positives of a block, N items, L history, D dim.
"""

from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt

from headrace.positives import F32, I64, MISS, Block, Flags, Positives

F64 = npt.NDArray[np.float64]
Progress = Callable[[int, int], None]
DENSE_MAX_ITEMS = 20_000  # item-item keeps an N x N matrix: 1.6 GB at this size


class Method(Protocol):
    """Scores a block, then learns it."""

    def scores(self, block: Block) -> F64 | F32:
        """Scores [N], the same for everybody, or [B, N]."""

    def learn(self, block: Block) -> None:
        """Take the block's positives."""


class Popularity:
    """Clicks, each weighing 2 ** -(its age / half_life); ages in clicks; `half_life` infinite: all-time counts."""

    def __init__(self, items: int, half_life: float) -> None:
        self.half_life = half_life
        self.counts: F64 = np.zeros(items)

    def scores(self, block: Block) -> F64:  # noqa: ARG002  (everybody sees the same)
        """Decayed counts [N]."""
        return self.counts

    def learn(self, block: Block) -> None:
        """Count."""
        n = len(block.item)
        self.counts *= 0.5 ** (n / self.half_life)
        np.add.at(self.counts, block.item, 0.5 ** (np.arange(n - 1, -1, -1) / self.half_life))


class ItemItem:
    """Neighbours of what the user clicked last, by clicks of the same users, newest weighing most.

    score(j) = sum_k decay^k * together(h_k, j) / (n(h_k) + shrink) / (n(j) + shrink)^damping, with h_k the k-th newest
    of the history; beside it `popularity_weight` times the share of the decayed clicks that went to j.
    """

    def __init__(self, items: int, popularity_weight: float, half_life: float) -> None:
        self.together: F32 = np.zeros((items, items), np.float32)
        self.clicks: F32 = np.zeros(items, np.float32)
        self.popularity = Popularity(items, half_life)
        self.popularity_weight, self.decay, self.shrink, self.damping = popularity_weight, 0.9, 5.0, 0.3

    def scores(self, block: Block) -> F32:
        """Scores [B, N]."""
        near, places = np.unique(block.history, return_inverse=True)  # [n], -1 first if there is any
        known = block.history >= 0  # [B, L]
        weights = known * self.decay ** np.arange(block.history.shape[1]) / (self.clicks[block.history] + self.shrink)
        spread: F32 = np.zeros((len(block.item), len(near)), np.float32)
        rows = np.broadcast_to(np.arange(len(block.item))[:, None], known.shape)
        np.add.at(spread, (rows, places.reshape(known.shape)), weights.astype(np.float32))
        found: F32 = spread @ self.together[near]  # [B, N]
        found *= ((self.clicks + self.shrink) ** -self.damping)[None, :]
        counts = self.popularity.counts
        found += (self.popularity_weight * counts / max(counts.sum(), 1.0)).astype(np.float32)
        return found

    def learn(self, block: Block) -> None:
        """Count each positive beside its user's history."""
        known = block.history >= 0
        item = np.repeat(block.item, known.sum(axis=1))
        near = block.history[known]
        np.add.at(self.together, (item, near), 1)
        np.add.at(self.together, (near, item), 1)
        np.add.at(self.clicks, block.item, 1)
        self.popularity.learn(block)


class BprMf:
    """Matrix factorisation by Bayesian personalised ranking (Rendle et al., UAI 2009), online, uniform negatives."""

    def __init__(
        self, users: int, items: int, dim: int = 32, rate: float = 0.1, negatives: int = 8, seed: int = 1
    ) -> None:
        self.rng = np.random.default_rng(seed)
        self.user: F32 = self.rng.normal(0, 0.1, (users, dim)).astype(np.float32)
        self.item: F32 = self.rng.normal(0, 0.1, (items, dim)).astype(np.float32)
        self.bias: F32 = np.zeros(items, np.float32)
        self.rate, self.negatives, self.decay = np.float32(rate), negatives, np.float32(0.002)

    def scores(self, block: Block) -> F32:
        """Scores [B, N]."""
        scores: F32 = self.user[block.user] @ self.item.T + self.bias
        return scores

    def learn(self, block: Block) -> None:
        """One step per drawn negative."""
        for _ in range(self.negatives):
            other = self.rng.integers(len(self.item), size=len(block.item))
            u, i, j = self.user[block.user], self.item[block.item], self.item[other]  # [B, D]
            margin = (u * (i - j)).sum(axis=1) + self.bias[block.item] - self.bias[other]  # [B]
            push = (self.rate / (1 + np.exp(margin)))[:, None]  # [B, 1]
            shrink = self.rate * self.decay
            np.add.at(self.user, block.user, push * (i - j) - shrink * u)
            np.add.at(self.item, block.item, push * u - shrink * i)
            np.add.at(self.item, other, -push * u - shrink * j)
            np.add.at(self.bias, block.item, push[:, 0])
            np.add.at(self.bias, other, -push[:, 0])


def progressive_ranks(method: Method, positives: Positives, batch: int, progress: Progress | None = None) -> I64:
    """Rank [P] of each positive under the protocol; MISS where it is no candidate."""
    ranks = np.empty(len(positives), np.int64)
    candidates = np.arange(positives.items) < positives.listed
    done = 0
    for block in positives.blocks(batch):
        ranks[done : done + len(block.item)] = _ranks(method.scores(block), block, candidates)
        method.learn(block)
        candidates[block.item] = True
        done += len(block.item)
        if progress:
            progress(done, len(positives))
    return ranks


def _ranks(scores: F64 | F32, block: Block, candidates: Flags) -> I64:
    place, excluded = block.left_out
    rows = np.arange(len(block.item))
    if scores.ndim == 1:
        own = scores[block.item]  # [B]
        order = np.sort(scores[candidates])
        better = len(order) - np.searchsorted(order, own, side="left")
        others = scores[excluded]
    else:
        own = scores[rows, block.item]  # [B]
        better = np.count_nonzero((scores >= own[:, None]) & candidates, axis=1)
        others = scores[place, excluded]
    beaten = (others >= own[place]) & candidates[excluded]
    ranks = better - np.bincount(place[beaten], minlength=len(rows))
    return np.where(candidates[block.item], ranks, MISS)
