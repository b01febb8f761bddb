"""The user tower in numpy, by the formulas of `contract/updates.py`. Pure.

B batch, D dim, m history bags, L history, F = (3 + m) * D, H hidden.

Law: a batch gives, bit for bit, what its users give one by one. So each user is a matrix product of its own
([B, 1, F] @ [F, D]): one product [B, F] @ [F, D] would sum in another order for another B.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from contract.features import Token, tokens
from contract.messages import History
from contract.updates import F32, Manifest
from publisher.index import unit


@dataclass(frozen=True, eq=False)
class UserTower:
    """Layers and feature tables of one version's user tower."""

    dim: int
    decays: tuple[float, ...]
    history_length: int
    w: F32  # [F, D]
    b: F32  # [D]
    hidden: tuple[F32, F32, F32] | None  # W1 [F, H], b1 [H], W2 [H, D]
    profile_rows: F32  # [n, D]
    context_rows: F32  # [n, D]
    profile_row_of: dict[Token, int]
    context_row_of: dict[Token, int]

    def inputs(
        self,
        user_row: F32 | None,
        item_rows: Sequence[F32],
        profile: Mapping[str, Any],
        context: Mapping[str, Any],
    ) -> F32:
        """Input [F] of one user: ID row [D] or None, item-ID rows [D] of recent clicks newest first, features."""
        parts = [
            np.zeros(self.dim, np.float32) if user_row is None else user_row,
            *self._bags(item_rows),
            token_sum(self.profile_rows, self.profile_row_of, profile),
            token_sum(self.context_rows, self.context_row_of, context),
        ]
        return np.concatenate(parts)

    def vectors(self, inputs: F32) -> F32:
        """Unit vectors [B, D] of inputs [B, F]; a zero vector stays zero."""
        x = inputs[:, None, :]  # [B, 1, F]
        v = x @ self.w + self.b  # [B, 1, D]
        if self.hidden is not None:
            w1, b1, w2 = self.hidden
            v = v + np.maximum(x @ w1 + b1, 0) @ w2  # [B, 1, D]
        return unit(v[:, 0, :])  # [B, D]

    @staticmethod
    def knows(row_of: Mapping[Token, int], features: Mapping[str, Any]) -> bool:
        """Tell whether a table has a row for any token of the features."""
        return any(token in row_of for token in flat_tokens(features))

    def _bags(self, item_rows: Sequence[F32]) -> list[F32]:
        if not item_rows:
            return [np.zeros(self.dim, np.float32) for _ in self.decays]
        rows = np.stack(item_rows)  # [n, D]
        k = np.arange(len(rows))
        bags = []
        for decay in self.decays:
            weights = np.power(decay, k)  # [n]
            bags.append((weights / weights.sum()).astype(np.float32) @ rows)  # [D]
        return bags


def user_tower(manifest: Manifest, tensors: Mapping[str, F32]) -> UserTower:
    """Tower of a snapshot's manifest and tensors; KeyError names a tensor that is missing."""
    none = np.zeros((0, manifest.dim), np.float32)
    hidden = (tensors["user.W1"], tensors["user.b1"], tensors["user.W2"]) if manifest.hidden else None
    return UserTower(
        manifest.dim,
        tuple(manifest.history_decays),
        manifest.history_length,
        tensors["user.W"],
        tensors["user.b"],
        hidden,
        tensors.get("profile.rows", none),
        tensors.get("context.rows", none),
        _row_of(manifest, "profile"),
        _row_of(manifest, "context"),
    )


def token_sum(rows: F32, row_of: Mapping[Token, int], features: Mapping[str, Any]) -> F32:
    """Sum [D] of the token rows of features over sqrt(number of tokens); unknown tokens are zero rows."""
    found = flat_tokens(features)
    known = [row_of[token] for token in found if token in row_of]
    total = rows[known].sum(axis=0) if known else np.zeros(rows.shape[1], np.float32)
    return (total / np.sqrt(np.float32(max(len(found), 1)))).astype(np.float32)  # type: ignore[no-any-return]


def flat_tokens(features: Mapping[str, Any]) -> list[Token]:
    """Tokens of all features."""
    return [token for of_name in tokens(features).values() for token in of_name]


def recent_clicks(history: History, length: int) -> list[str]:
    """Items of the newest `length` clicks of the ring by (ts, offset), newest first (JOIN.md, History).

    The record may hold more than the ring (what an undecided click still needs): the ring is its last 4 L by offset.
    """
    ring = history.clicks[-4 * length :]
    newest = sorted(ring, key=lambda click: (click.ts_ms, click.offset), reverse=True)
    return [click.item_id for click in newest[:length]]


def seen_items(history: History, exclude_seen: str) -> set[str]:
    """Items that are not shown again: `none`, those `clicked`, or those `shown` (which clicked ones were, too)."""
    if exclude_seen == "none":
        return set()
    clicked = {click.item_id for click in history.clicks}
    return clicked | ({i for e in history.shown for i in e.items} if exclude_seen == "shown" else set())


def _row_of(manifest: Manifest, stem: str) -> dict[Token, int]:
    return {(name, text): row for row, (name, text) in enumerate(manifest.tokens.get(stem, []))}
