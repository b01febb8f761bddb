"""The gate: may a candidate replace what is served? Pure.

A candidate shadows: from its day border on, each sample is scored by both models before either learns it. Once
`min_samples` paired samples are in, the candidate passes when nothing below holds against it, in this order:

    click flood      one item has more than `item_share` of the day's samples    refused at once
    nobody's taste   popularity told the day's clicks better than the model did, and the day before it was the other way
                     round, both beyond chance (SIGMAS standard errors)          refused at once
    not finite       NaN or infinity in its vectors                         refused at once
    vector norms     longest over NORM_MAX, or over half shorter than NORM_MIN of the items that had a direction
    item count       fewer than ITEMS_KEPT of the served model's items      refused at once
    recall           recall_at_50 below the served model's by more than `tolerance` on the same samples
    the day          recall_at_50 below that of the full model before it, which rests, by more than `tolerance`

The last two are different questions: what spoils a day's labels spoils the served model, too, which has learned them
one by one, and a candidate that is merely no worse than a spoilt model is no good. A day on one item is not learned.
Nor is one whose clicks are dealt out at random: on Globo News new articles and counts made up for what such a day
spoilt, and both comparisons passed it. After two such days in a row the second is compared with the first and passes
this point: a model that fell behind popularity for good must be able to learn again.

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
SIGMAS = 3.0

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


def judge(
    paired: Paired,
    served: Vectors,
    candidate: Vectors,
    min_samples: int,
    tolerance: float,
    rested: Paired | None = None,
) -> Verdict:
    """Give the verdict on a candidate; "waiting" while too few paired samples are in.

    `rested` pairs the last full model (as served) with the candidate.
    """
    if broken := unfit(served, candidate):
        return Verdict("refused", broken)
    if paired.samples < min_samples:
        return Verdict("waiting", f"{paired.samples} of {min_samples} paired samples are in")
    said = _compared(paired, "served")
    if paired.difference()[0] < -tolerance:
        return Verdict("refused", f"{said}: worse by more than the tolerance {tolerance}")
    if rested is not None and rested.difference()[0] < -tolerance:
        said = _compared(rested, "of the full model before it")
        return Verdict("refused", f"{said}: the day made it worse by more than the tolerance {tolerance}")
    return Verdict("passed", said)


def _compared(paired: Paired, what: str) -> str:
    difference, error = paired.difference()
    return (
        f"recall_at_{K} {paired.candidate / paired.samples:.4f} against {paired.served / paired.samples:.4f} {what}, "
        f"on {paired.samples} samples ({difference:+.4f}, standard error {error:.4f})"
    )


def flooded(item: str, share: float, samples: int, limit: float) -> str:
    """Why a day cannot be learned, in words; empty when it can."""
    if share <= limit:
        return ""
    return (
        f"item {item} has {100 * share:.0f} % of the day's {samples} samples, at most {100 * limit:.0f} % are believed "
        "(gate.item_share): a click flood"
    )


def nobodys_taste(day: Paired, before: Paired) -> str:
    """Why a day's clicks are not believed, in words; empty when they are.

    Both pair popularity, as `served`, with the model, as `candidate`, before it learned each click: of the day, and of
    the day before.
    """
    (ahead, error), (ahead_before, error_before) = day.difference(), before.difference()
    if ahead >= -SIGMAS * error or ahead_before <= SIGMAS * error_before:
        return ""
    return (
        f"popularity told the day's clicks better than the model: {_compared(day, 'for popularity')}; the day before "
        f"it was {ahead_before:+.4f}: clicks that follow nobody's taste"
    )


def unfit(served: Vectors, candidate: Vectors) -> str:
    """Why a candidate's vectors cannot be served, in words; empty when they can."""
    if broken := unsound(candidate.longest, finite=candidate.finite):
        return broken
    if candidate.items < ITEMS_KEPT * served.items:
        return f"it has {candidate.items} items where {served.items} are served"
    if candidate.directed < SHORT_SHARE * served.directed:
        return f"only {candidate.directed} of its item vectors have a direction, {served.directed} of the served ones"
    return ""


def unsound(longest: float, *, finite: bool) -> str:
    """Why numbers cannot be served, in words: the longest item vector's norm, and whether all are finite."""
    if not finite:
        return "its rows or item vectors hold NaN or infinity"
    if longest > NORM_MAX:
        return f"an item vector has norm {longest:.3g}, unit vectors are wanted"
    return ""


def dropped(newest: float, before: float, samples: int, drop: float) -> str:
    """Why deltas must stop: recall of the newest samples against that before them; empty when there is no reason."""
    if newest >= (1 - drop) * before:
        return ""
    return f"recall_at_{K} of the newest {samples} samples is {newest:.4f}, before them it was {before:.4f}"
