"""Row-wise Adagrad on touched rows, and plain Adagrad on the towers' layers (Duchi et al., 2011).

One accumulator per row (as in torchrec and FBGEMM), so a row of D numbers costs one more. Rows are gathered once,
computed densely, and written back once.
"""

import torch
from torch import Tensor

from trainer.table import Rows

MIN_ROOT = 1e-10


def step_rows(table: Rows, rows: Tensor, before: Tensor, gradient: Tensor, rate: float) -> None:
    """Move distinct rows [n] from their values `before` [n, D] against a gradient [n, D]."""
    acc = table.acc[rows] + gradient.square().mean(dim=1)  # [n]
    table.acc[rows] = acc
    table.values[rows] = before - gradient * (rate / acc.sqrt()).unsqueeze(1)


def step_layer(layer: Tensor, acc: Tensor, gradient: Tensor, rate: float) -> None:
    """Move a dense layer in place."""
    acc += gradient.square()
    layer -= rate * gradient / acc.sqrt().clamp_min(MIN_ROOT)


def leaf(values: Tensor) -> Tensor:
    """Give a tensor that collects a gradient."""
    return values.detach().requires_grad_()


def gradient_of(tensor: Tensor) -> Tensor:
    """Gradient of a leaf; zero if the loss does not depend on it."""
    return torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
