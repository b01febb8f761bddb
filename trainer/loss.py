"""Sampled softmax over a step's candidates, with accidental hits masked.

Candidates are the distinct items among the batch's positives and the drawn negatives; `times` says how often each came.
B = 3 samples, U = 4 candidates, x = masked (another copy of the positive, or the same user's positive), p = positive:

                item 7   item 9   item 4   item 2
    u1 -> 7       p        -        x        -        u1 also clicked 4
    u2 -> 9       -        p        -        -
    u1 -> 4       x        -        p        -
    times         1        1        1        2        drawn twice: counts twice as a negative

    logit = cos / tau + beta * log(count + epsilon) - log expected(times)      correction "prior"
    logit = cos / tau                               - log expected(times)      "logq"
    logit = cos / tau                                                          "none"

With "prior" the counted part of the score is in the softmax as it will be served, so the towers learn only what
counting does not know. For in-batch items alone (expected ~ count) its two extra terms cancel for beta = 1.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainer.frequency import F64, I64, log_q


def candidate_bias(
    correction: str, counts: F64, total: float, drawn: F64, positives: int, prior_weight: float, prior_epsilon: float
) -> F64:
    """What is added to cos / tau of each candidate [U]; see the module."""
    if correction == "none":
        return np.zeros_like(counts)
    bias = -log_q(counts, total, drawn, positives)
    if correction == "prior":
        bias = bias + prior_weight * np.log(counts + prior_epsilon)
    return bias


def accidental(
    places: npt.NDArray[np.int64], known_sample: I64, known_item: I64, candidates: I64, of_row: I64
) -> npt.NDArray[np.bool_]:
    """Mask [B, U] of candidates that are no negatives of a sample.

    `places` [B] is each sample's positive among `candidates` [U] (item rows); (known_sample, known_item) [P] are pairs
    of a sample and an item that its user is known to like; `of_row` is scratch, -1 for every item row.
    """
    mask = np.zeros((len(places), len(candidates)), bool)
    of_row[candidates] = np.arange(len(candidates))
    at = of_row[known_item]
    of_row[candidates] = -1
    hit = at >= 0
    mask[known_sample[hit], at[hit]] = True
    mask[np.arange(len(places)), places] = True
    return mask


def sampled_softmax(
    cosines: Tensor,
    places: Tensor,
    mask: Tensor,
    bias: Tensor,
    times: Tensor,
    temperature: float,
    weights: Tensor,
    hard: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Mean negative log-likelihood, a scalar.

    cosines [B, U] · places [B] of the positives · mask [B, U] true: no negative · bias, times [U] · weights [B] ·
    hard: (sample [H], logit [H]) of hard negatives, which count for their own sample only.
    """
    logits = cosines / temperature + bias  # [B, U]
    positive = logits.gather(1, places.unsqueeze(1)).squeeze(1)  # [B]
    others = (logits + times.log()).masked_fill(mask, -torch.inf)  # [B, U]
    peak = torch.maximum(others.detach().amax(dim=1), positive.detach())  # [B]
    if hard is not None:
        peak = peak.scatter_reduce(0, hard[0], hard[1].detach(), "amax")  # [B]
    total = (others - peak.unsqueeze(1)).exp().sum(dim=1) + (positive - peak).exp()  # [B]
    if hard is not None:
        total = total.index_add(0, hard[0], (hard[1] - peak[hard[0]]).exp())  # [B]
    loss = peak + total.log() - positive  # [B]
    return (loss * weights).sum() / weights.sum().clamp_min(1.0)
