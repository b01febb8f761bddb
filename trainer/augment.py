"""Feature transforms of items for self-supervised learning (Yao et al., CIKM 2021). Pure numpy.

An item's features are its ID (feature 0) and its token groups (features 1 .. k - 1). A view says what is kept; what is
masked is *default*: it adds nothing to the tower's input, as in an item that never had it.

    m = 2 items, T = 5 tokens      owner    0    0    0    1    1
                                   feature  1    1    2    1    2        1 "tag", 2 "city"
                                   token    t4   t9   c1   t4   c7

    random mask of "tag" of item 0            keep  no   no   yes  yes  yes      id  yes yes
    dropout (half of a feature's values)            yes  no   yes  yes  yes          yes yes
    complementary, first view {ID, city}            no   no   yes  no   yes          yes yes
    complementary, second view {tag}                yes  yes  no   yes  no           no  no
    correlated: a seed feature and the k/2 features of most mutual information with it are masked together

m items, T tokens, k features.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from trainer.frequency import F64, I64

Flags = npt.NDArray[np.bool_]
ID = 0  # number of the feature that the ID row is
MASKED_SHARE = 0.5  # of features by a random mask, and of a feature's values by dropout


@dataclass(frozen=True)
class Tokens:
    """Tokens of m items, one after the other."""

    owner: I64  # [T] from 0 to m - 1, ascending
    feature: I64  # [T] from 1 to k - 1
    token: I64  # [T] token rows
    items: int  # m
    features: int  # k, with the ID


class View(NamedTuple):
    """What is kept."""

    tokens: Flags  # [T]
    ids: Flags  # [m]


def _view(tokens: Tokens, kept: Flags) -> View:
    """Give the view that keeps some features [m, k] of each item."""
    return View(kept[tokens.owner, tokens.feature], kept[:, ID])


def random_mask(tokens: Tokens, rng: np.random.Generator) -> View:
    """Mask each feature of each item by a coin."""
    return _view(tokens, rng.random((tokens.items, tokens.features)) >= MASKED_SHARE)


def dropout(tokens: Tokens, rng: np.random.Generator) -> View:
    """Drop half of the values (rounded down) of every multi-valued feature; single values and the ID stay."""
    group = tokens.owner * tokens.features + tokens.feature  # [T]
    order = np.lexsort((rng.random(len(group)), group))  # by group, shuffled within
    begins = np.searchsorted(group[order], group[order], side="left")
    place = np.arange(len(group)) - begins
    size = np.searchsorted(group[order], group[order], side="right") - begins
    kept = np.empty(len(group), bool)
    kept[order] = place >= np.floor(size * MASKED_SHARE)
    return View(kept, np.ones(tokens.items, bool))


def complementary(tokens: Tokens, rng: np.random.Generator) -> tuple[View, View]:
    """Split each item's features into two random groups of equal size (or one more): a view of either."""
    place = rng.random((tokens.items, tokens.features)).argsort(axis=1)  # [m, k]
    first = place < tokens.features // 2
    return _view(tokens, first), _view(tokens, ~first)


def correlated(tokens: Tokens, information: F64, rng: np.random.Generator) -> View:
    """Mask a random seed feature of each item, and the k/2 features most related to it by `information` [k, k]."""
    masked = related(information)[rng.integers(tokens.features, size=tokens.items)]  # [m, k]
    return _view(tokens, ~masked)


def related(information: F64) -> Flags:
    """For each seed feature (row) of k: itself and its k/2 most related, but never all of them: [k, k]."""
    k = len(information)
    others = information.astype(np.float64, copy=True)
    np.fill_diagonal(others, -np.inf)
    nearest = np.argsort(-others, axis=1, kind="stable")[:, : min(k // 2, k - 2)] if k > 1 else np.zeros((k, 0), int)
    masked = np.eye(k, dtype=bool) if k > 1 else np.zeros((k, k), bool)
    np.put_along_axis(masked, nearest, values=True, axis=1)
    return masked


def views(tokens: Tokens, names: Sequence[str], information: F64, rng: np.random.Generator) -> tuple[View, View]:
    """Two views of each item by transforms drawn from `names`: complementary gives both, else one of each draw."""
    first = names[int(rng.integers(len(names)))]
    if first == "complementary":
        return complementary(tokens, rng)
    singles = [name for name in names if name != "complementary"]
    second = singles[int(rng.integers(len(singles)))]
    one, two = (_single(name, tokens, information, rng) for name in (first, second))
    return one, two


def _single(name: str, tokens: Tokens, information: F64, rng: np.random.Generator) -> View:
    if name == "mask":
        return random_mask(tokens, rng)
    if name == "dropout":
        return dropout(tokens, rng)
    return correlated(tokens, information, rng)


def mutual_information(tokens: Tokens) -> F64:
    """MI(U, V) = sum p(u, v) log(p(u, v) / (p(u) p(v))) of all feature pairs, in nats: [k, k].

    Every item weighs the same; an item with several values of a feature has each of them in equal parts, one without
    any has the value *none*. The diagonal holds the entropies where features have one value each.
    """
    columns = [_values(tokens, feature) for feature in range(tokens.features)]
    found = np.zeros((tokens.features, tokens.features))
    for a, left in enumerate(columns):
        for b in range(a, tokens.features):
            found[a, b] = found[b, a] = _information(left, columns[b], tokens.items, same=a == b)
    return found


class _Values(NamedTuple):
    owner: I64  # [V] ascending
    value: I64  # [V] from 0 on
    share: F64  # [V] of its item; shares of an item sum to one


def _values(tokens: Tokens, feature: int) -> _Values:
    if feature == ID:
        numbers = np.arange(tokens.items)
        return _Values(numbers, numbers, np.ones(tokens.items))
    at = tokens.feature == feature
    counts = np.bincount(tokens.owner[at], minlength=tokens.items)  # [m]
    without = np.flatnonzero(counts == 0)
    owner = np.concatenate([tokens.owner[at], without])
    token = np.concatenate([tokens.token[at], np.full(len(without), -1)])
    _, value = np.unique(token, return_inverse=True)
    order = np.argsort(owner, kind="stable")
    share = 1.0 / np.maximum(counts, 1)[owner]
    return _Values(owner[order], value.reshape(-1)[order], share[order])


def _information(left: _Values, right: _Values, items: int, *, same: bool) -> float:
    if same:  # a value goes with itself only: entropy
        joint_share, u, v = left.share, left.value, left.value
    else:
        counts = np.bincount(right.owner, minlength=items)
        begins = np.cumsum(counts) - counts
        repeats = counts[left.owner]  # [V] partners of each left value
        at_left = np.repeat(np.arange(len(left.owner)), repeats)
        within = np.arange(len(at_left)) - np.repeat(np.cumsum(repeats) - repeats, repeats)
        at_right = begins[left.owner[at_left]] + within
        joint_share = left.share[at_left] * right.share[at_right]
        u, v = left.value[at_left], right.value[at_right]
    p_u = np.bincount(left.value, left.share) / items
    p_v = np.bincount(right.value, right.share) / items
    pairs, place = np.unique(u * len(p_v) + v, return_inverse=True)
    p_uv = np.bincount(place.reshape(-1), joint_share) / items
    return float((p_uv * np.log(p_uv / (p_u[pairs // len(p_v)] * p_v[pairs % len(p_v)]))).sum())
