"""The two towers and everything they have learned, with the formulas of `contract/updates.py`.

B batch, D dim, m history bags, L history, n rows; H hidden.

    user = [ID row | bag_1 .. bag_m | profile tokens | context tokens]  [B, (3 + m) * D]
    item = [ID row | feature tokens]                                    [n, 2 * D]
    tower(x) = normalise(x @ W + b (+ relu(x @ W1 + b1) @ W2))          [., D]

W starts as stacked identities and b as zero: at first a vector is simply the sum of its parts, so the tables learn
something useful from the first click. W2 starts as zero: the hidden layer joins in when a full update finds use for it.
"""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from trainer.frequency import I64
from trainer.table import Rows

MIN_NORM = 1e-12
LEARNABLE_NORM = 1e-6  # below it a vector has no direction, and its gradient none that means anything
TABLES = ("users", "items", "profile", "context", "item_features")
ID_TABLES = ("users", "items")


class Model:
    """Tables (ID rows and feature tokens) and layers: one state of learning, with the optimizer's."""

    def __init__(self, dim: int, bags: int, hidden: int, seed: int) -> None:
        self.dim, self.bags, self.hidden = dim, bags, hidden
        self.tables = {name: Rows(dim) for name in TABLES}
        self.layers: dict[str, Tensor] = {}
        draw = torch.Generator().manual_seed(seed)
        for tower, blocks in (("user", 3 + bags), ("item", 2)):
            self.layers[f"{tower}.W"] = torch.eye(dim).repeat(blocks, 1)  # [blocks * D, D]
            self.layers[f"{tower}.b"] = torch.zeros(dim)  # [D]
            if hidden:
                width = blocks * dim
                self.layers[f"{tower}.W1"] = torch.randn(width, hidden, generator=draw) / width**0.5  # [., H]
                self.layers[f"{tower}.b1"] = torch.zeros(hidden)  # [H]
                self.layers[f"{tower}.W2"] = torch.zeros(hidden, dim)  # [H, D]
        self.layer_acc = {name: torch.zeros_like(layer) for name, layer in self.layers.items()}

    def take(self, other: "Model") -> None:
        """Become a copy of another model's state."""
        for name, rows in self.tables.items():
            rows.take(other.tables[name])
        self.layers = {name: layer.clone() for name, layer in other.layers.items()}
        self.layer_acc = {name: acc.clone() for name, acc in other.layer_acc.items()}

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the state by name, as a checkpoint holds them."""
        state = {f"{name}.values": rows.values for name, rows in self.tables.items()}
        state |= {f"{name}.acc": rows.acc for name, rows in self.tables.items()}
        state |= {f"layer.{name}": layer for name, layer in self.layers.items()}
        return state | {f"layer_acc.{name}": acc for name, acc in self.layer_acc.items()}

    def load(self, state: dict[str, Tensor]) -> None:
        """Take tensors that `tensors` gave."""
        for name, rows in self.tables.items():
            rows.values, rows.acc = state[f"{name}.values"], state[f"{name}.acc"]
        self.layers = {name: state[f"layer.{name}"] for name in self.layers}
        self.layer_acc = {name: state[f"layer_acc.{name}"] for name in self.layer_acc}


def tower(x: Tensor, layers: dict[str, Tensor], name: str) -> Tensor:
    """Unit vectors [n, D] of one tower's inputs [n, blocks * D]; a zero vector stays zero."""
    v = x @ layers[f"{name}.W"] + layers[f"{name}.b"]  # [n, D]
    if f"{name}.W1" in layers:
        v = v + torch.relu(x @ layers[f"{name}.W1"] + layers[f"{name}.b1"]) @ layers[f"{name}.W2"]  # [n, D]
    norm = v.norm(dim=1, keepdim=True)  # [n, 1]
    if v.requires_grad:
        alive = norm.detach() > LEARNABLE_NORM  # [n, 1]
        if not bool(alive.all()):
            v = torch.where(alive, v, v.detach())  # [n, D]
            norm = torch.where(alive, norm, norm.detach())  # [n, 1]
    unit: Tensor = v / norm.clamp_min(MIN_NORM)  # [n, D]
    return unit


def decay_weights(lengths: I64, decays: Iterable[float]) -> list[Tensor]:
    """Weights [P] of each bag for histories of `lengths` [B] known items, flat, newest first: P = their sum.

    The k-th weighs decay ** k, and the weights of one history sum to one.
    """
    starts = np.cumsum(lengths) - lengths  # [B]
    k = np.arange(int(lengths.sum())) - np.repeat(starts, lengths)  # [P]
    sums = [(1 - decay**lengths) / (1 - decay) if decay < 1 else lengths for decay in decays]  # [B] each
    return [
        torch.from_numpy((decay**k / np.repeat(one, lengths)).astype(np.float32))
        for decay, one in zip(decays, sums, strict=True)
    ]


def bags(rows: Tensor, places: Tensor, lengths: I64, weights: list[Tensor]) -> Tensor:
    """History bags [B, m * D] from item-ID rows [n, D], flat places [P] into them, lengths [B] and m weights [P]."""
    if len(places) == 0:
        return torch.zeros(len(lengths), len(weights) * rows.shape[1])
    offsets = torch.from_numpy(np.cumsum(lengths) - lengths)  # [B]
    bag = torch.nn.functional.embedding_bag
    made = [bag(places, rows, offsets, mode="sum", per_sample_weights=one) for one in weights]  # m of [B, D]
    return torch.cat(made, dim=1)


def token_sums(rows: Tensor, flat: Tensor, lengths: Tensor) -> Tensor:
    """Sums [n, D] of token rows (flat places, `lengths` [n] of them each) over sqrt(their number); -1: a zero row."""
    offsets = torch.cumsum(lengths, 0) - lengths  # [n]
    known = flat >= 0
    if not known.any():
        return torch.zeros(len(lengths), rows.shape[1])
    weights = None if known.all() else known.to(rows.dtype)
    sums = torch.nn.functional.embedding_bag(
        flat.clamp_min(0), rows, offsets, mode="sum", per_sample_weights=weights
    )  # [n, D]
    return sums / lengths.clamp_min(1).sqrt().unsqueeze(1)  # [n, D]
