"""The gate: may a candidate replace what is served? Pure.

A candidate shadows: from its day border on, each sample is scored by both models before either learns it. Once
`min_samples` paired samples are in, the candidate passes when nothing below holds against it, in this order:

    not finite       NaN or infinity in its vectors                         refused at once
    vector norms     longest over NORM_MAX, or over half shorter than NORM_MIN of the items that had a direction
    item count       fewer than ITEMS_KEPT of the served model's items      refused at once
    recall           recall_at_50 below the served model's by more than `tolerance` on the same samples

Hits are paired, so chance plays less than between two separate groups; the verdict also says how many standard errors
the difference is.

    served     hit   hit   miss  hit   miss        b = 1: only the served model hit
    candidate  hit   miss  miss  hit   hit         c = 1: only the candidate hit
    difference = (c - b) / n, standard error = sqrt(b + c - (c - b)^2 / n) / n             (as in McNemar's test)
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from trainer.frequency import I64

K = 50
NORM_MIN, NORM_MAX = 0.5, 1.001  # unit vectors; a zero one belongs to an item of which nothing is known
SHORT_SHARE = 0.5
ITEMS_KEPT = 0.5

F32 = npt.NDArray[np.float32]
Outcome = Literal["waiting", "passed", "refused"]


class Verdict(NamedTuple):
    """What the gate says, and why, in words."""

    outcome: Outcome
    reason: str


class Vectors(NamedTuple):
    """What is looked at in a model's item vectors."""

    finite: bool
    longest: float  # norm
    directed: int  # items of norm at least NORM_MIN
    items: int


def looked_at(vectors: F32) -> Vectors:
    """Look at item vectors [N, D]."""
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1)
    finite = bool(np.isfinite(norms).all())
    longest = float(norms.max()) if finite and len(norms) else 0.0
    return Vectors(finite, longest, int(np.count_nonzero(norms >= NORM_MIN)), len(norms))


@dataclass
class Paired:
    """Hits at K of both models on the same samples."""

    samples: int = 0
    served: int = 0
    candidate: int = 0
    only_served: int = 0
    only_candidate: int = 0

    def add(self, served: I64, candidate: I64) -> None:
        """Take both models' ranks [n] of the same samples. Raises ValueError when they do not pair."""
        if served.shape != candidate.shape:
            raise ValueError(f"{len(served)} ranks of the served model, {len(candidate)} of the candidate")
        a, b = served <= K, candidate <= K
        self.samples += len(a)
        self.served += int(np.count_nonzero(a))
        self.candidate += int(np.count_nonzero(b))
        self.only_served += int(np.count_nonzero(a & ~b))
        self.only_candidate += int(np.count_nonzero(b & ~a))

    def difference(self) -> tuple[float, float]:
        """The candidate's recall_at_50 minus the served model's, and its standard error."""
        n, b, c = self.samples, self.only_served, self.only_candidate
        if not n:
            return 0.0, 0.0
        return (c - b) / n, max(b + c - (c - b) ** 2 / n, 0.0) ** 0.5 / n


def judge(paired: Paired, served: Vectors, candidate: Vectors, min_samples: int, tolerance: float) -> Verdict:
    """Give the verdict on a candidate; "waiting" while too few paired samples are in."""
    if broken := unfit(served, candidate):
        return Verdict("refused", broken)
    if paired.samples < min_samples:
        return Verdict("waiting", f"{paired.samples} of {min_samples} paired samples are in")
    difference, error = paired.difference()
    said = (
        f"recall_at_{K} {paired.candidate / paired.samples:.4f} against {paired.served / paired.samples:.4f} served, "
        f"on {paired.samples} samples ({difference:+.4f}, standard error {error:.4f})"
    )
    if difference < -tolerance:
        return Verdict("refused", f"{said}: worse by more than the tolerance {tolerance}")
    return Verdict("passed", said)


def unfit(served: Vectors, candidate: Vectors) -> str:
    """Why a candidate's vectors cannot be served, in words; empty when they can. Deltas pass this too."""
    if not candidate.finite:
        return "its item vectors hold NaN or infinity"
    if candidate.longest > NORM_MAX:
        return f"an item vector has norm {candidate.longest:.3g}, unit vectors are wanted"
    if candidate.items < ITEMS_KEPT * served.items:
        return f"it has {candidate.items} items where {served.items} are served"
    if candidate.directed < SHORT_SHARE * served.directed:
        return f"only {candidate.directed} of its item vectors have a direction, {served.directed} of the served ones"
    return ""


def dropped(recent: Paired, min_samples: int, tolerance: float) -> str:
    """Why deltas must stop: a sudden drop of the live model against its last good state; empty when there is none.

    `recent` pairs the last good published state (as served) with the live model (as candidate).
    """
    if recent.samples < min_samples:
        return ""
    difference, _ = recent.difference()
    if difference >= -tolerance:
        return ""
    return f"recall_at_{K} fell by {-difference:.4f} on {recent.samples} samples against what was published last"
