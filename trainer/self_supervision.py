"""The self-supervised loss of the item tower: two views of an item lie close, views of different items apart.

    L_self[i] = -log( exp(cos(b'_i, b''_i) / tau) / sum_j exp(cos(b'_i, b''_j) / tau) )      mean over m uniform items

Items are drawn uniformly, so that rarely shown ones weigh as much as popular ones (Yao et al., CIKM 2021). Full updates
minimise mean L_main + alpha * mean L_self.

m items, T tokens, D dim, k features.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from trainer.augment import Tokens, View, mutual_information, views
from trainer.frequency import F64, I64
from trainer.model import tower
from trainer.tokens import Owners, token

MOST_ITEMS = 20_000  # of the catalogue, for the mutual information


class Plan(NamedTuple):
    """What one step compares: item rows [m], their tokens, and two views of them."""

    rows: I64
    tokens: Tokens
    views: tuple[View, View]


class Catalogue:
    """Listed items, the features of their tokens and the features' mutual information, for one full update."""

    def __init__(self, rows: I64, owners: Owners, rng: np.random.Generator) -> None:
        self.rows, self.owners = rows, owners
        names = dict[str, int]()
        texts = owners.vocabulary.index.ids
        self.feature_of = np.array(
            [0 if text is None else names.setdefault(token(text)[0], len(names) + 1) for text in texts], np.int64
        )
        self.features = 1 + len(names)
        some = rows if len(rows) <= MOST_ITEMS else rng.choice(rows, MOST_ITEMS, replace=False)
        self.information: F64 = mutual_information(self.tokens(some))

    def tokens(self, rows: I64) -> Tokens:
        """Tokens of item rows [m]."""
        flat, lengths = self.owners.flat(rows)
        owner = np.repeat(np.arange(len(rows)), lengths)
        owner, flat = owner[flat >= 0], flat[flat >= 0]
        return Tokens(owner, self.feature_of[flat], flat, len(rows), self.features)

    def plan(self, items: int, transforms: list[str], rng: np.random.Generator) -> Plan | None:
        """Draw `items` different items uniformly and two views of them; None when there are not two items."""
        m = min(items, len(self.rows))
        if m < 2 or self.features < 2:  # noqa: PLR2004  (nothing to tell apart)
            return None
        rows = rng.choice(self.rows, m, replace=False)
        tokens = self.tokens(rows)
        return Plan(rows, tokens, views(tokens, transforms, self.information, rng))


def self_loss(own: Tensor, token_rows: Tensor, plan: Plan, layers: dict[str, Tensor], temperature: float) -> Tensor:
    """Mean L_self, a scalar, of ID rows [m, D] and token rows [T, D] as they stand in `plan`."""
    first, second = (view_vectors(own, token_rows, plan.tokens, view, layers) for view in plan.views)  # [m, D]
    logits = first @ second.T / temperature  # [m, m]
    return torch.nn.functional.cross_entropy(logits, torch.arange(len(logits)))


def view_vectors(own: Tensor, token_rows: Tensor, tokens: Tokens, view: View, layers: dict[str, Tensor]) -> Tensor:
    """Unit vectors [m, D] of items seen through one view; token sums as in `model.token_sums`."""
    kept = torch.from_numpy(np.flatnonzero(view.tokens))  # [n]
    owner = torch.from_numpy(tokens.owner)[kept]  # [n]
    sums = torch.zeros_like(own).index_add(0, owner, token_rows[kept])  # [m, D]
    count = torch.bincount(owner, minlength=tokens.items).clamp_min(1)  # [m]
    seen = own * torch.from_numpy(view.ids).unsqueeze(1)  # [m, D]
    return tower(torch.cat([seen, sums / count.sqrt().unsqueeze(1)], dim=1), layers, "item")
