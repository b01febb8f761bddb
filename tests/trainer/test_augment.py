"""The four feature transforms and the mutual information between features."""

import numpy as np
import pytest

from trainer.augment import (
    ID,
    Tokens,
    complementary,
    correlated,
    dropout,
    mutual_information,
    random_mask,
    related,
    views,
)

SEEDS = range(20)


def tokens_of(items: list[list[list[int]]]) -> Tokens:
    """Items as lists of features, a feature as a list of token rows."""
    flat = [(o, f + 1, t) for o, item in enumerate(items) for f, values in enumerate(item) for t in values]
    owner, feature, token = np.array(flat, np.int64).reshape(-1, 3).T
    return Tokens(owner, feature, token, len(items), 1 + max(len(item) for item in items))


def table() -> Tokens:
    """40 items with a tag list of 0 to 5 values, a city, a language."""
    return tokens_of([[list(range(n % 6)), [100 + n % 3], [200 + n % 2]] for n in range(40)])


def test_information_hand_worked() -> None:
    """MI of a worked table: colour and size of 4 items, p(red)=1/2, p(red,S)=1/2, p(blue,S)=p(blue,L)=1/4.

    MI = 1/2 log((1/2)/(1/2*3/4)) + 1/4 log((1/4)/(1/2*3/4)) + 1/4 log((1/4)/(1/2*1/4))
    """
    red, blue, small, large = 1, 2, 3, 4
    found = mutual_information(tokens_of([[[red], [small]], [[red], [small]], [[blue], [small]], [[blue], [large]]]))
    by_hand = 0.5 * np.log(4 / 3) + 0.25 * np.log(2 / 3) + 0.25 * np.log(2)
    assert found[1, 2] == pytest.approx(by_hand)
    assert found[2, 1] == pytest.approx(by_hand)
    assert found[1, 1] == pytest.approx(np.log(2)), "a feature with itself: its entropy"
    assert found[ID, 1] == pytest.approx(np.log(2)), "the ID tells everything: the other's entropy"
    assert found[ID, ID] == pytest.approx(np.log(4))


def test_information_several_and_no_values() -> None:
    """A list's values share their item's weight, and having no value is a value: worked for two items.

    item 0 has tags a, b and colour c; item 1 has no tag and colour d: p(a,c)=p(b,c)=1/4, p(none,d)=1/2; MI = log 2.
    """
    found = mutual_information(tokens_of([[[1, 2], [5]], [[], [6]]]))
    assert found[1, 2] == pytest.approx(0.25 * np.log(2) * 2 + 0.5 * np.log(2))


def test_information_independent() -> None:
    """Features that are independent have none."""
    found = mutual_information(tokens_of([[[a], [10 + b]] for a in range(3) for b in range(4)]))
    assert found[1, 2] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_random_mask_whole_features(seed: int) -> None:
    """A feature of an item is masked whole or not at all, and over many items about half of them are."""
    tokens, view = table(), random_mask(table(), np.random.default_rng(seed))
    for owner in range(tokens.items):
        for feature in range(1, tokens.features):
            assert len(set(view.tokens[(tokens.owner == owner) & (tokens.feature == feature)])) <= 1
    assert 0.2 < view.tokens.mean() < 0.8
    assert 0 < view.ids.sum() < tokens.items


@pytest.mark.parametrize("seed", SEEDS)
def test_dropout_half_of_many(seed: int) -> None:
    """Dropout takes half of a list's values, rounded down, and never touches a single value or the ID."""
    tokens, view = table(), dropout(table(), np.random.default_rng(seed))
    assert view.ids.all()
    for owner in range(tokens.items):
        for feature in range(1, tokens.features):
            kept = view.tokens[(tokens.owner == owner) & (tokens.feature == feature)]
            assert len(kept) - kept.sum() == len(kept) // 2


def test_dropout_random() -> None:
    """Which half goes differs between draws."""
    tokens, rng = tokens_of([[list(range(8))]]), np.random.default_rng(1)
    assert len({tuple(dropout(tokens, rng).tokens) for _ in range(20)}) > 5


@pytest.mark.parametrize("seed", SEEDS)
def test_complementary_split(seed: int) -> None:
    """Every feature of every item is in exactly one of the two views, and the groups are of equal size."""
    tokens = table()
    one, two = complementary(tokens, np.random.default_rng(seed))
    assert (one.tokens ^ two.tokens).all()
    assert (one.ids ^ two.ids).all()
    for owner in range(tokens.items):
        at = tokens.owner == owner
        in_one = {f for f in range(1, 4) if one.tokens[at & (tokens.feature == f)].any()}
        in_two = {f for f in range(1, 4) if two.tokens[at & (tokens.feature == f)].any()}
        assert not in_one & in_two
        if owner % 6:  # has all features
            assert len(in_one) + int(one.ids[owner]) == len(in_two) + int(two.ids[owner]) == 2


@pytest.mark.parametrize("seed", SEEDS)
def test_correlated_goes_together(seed: int) -> None:
    """A seed is masked with its most related features and the others stay.

    k = 4; colour and shade tell each other, so one is never seen without the other unless the ID or city was the seed.
    """
    information = np.array([[9, 1, 1, 2], [1, 9, 8, 0], [1, 8, 9, 0], [2, 0, 0, 9]], float)
    masked = related(information)
    assert masked.tolist() == [
        [True, True, False, True],
        [True, True, True, False],
        [True, True, True, False],
        [True, True, False, True],
    ]
    tokens = tokens_of([[[1], [2], [3]]] * 30)
    view = correlated(tokens, information, np.random.default_rng(seed))
    gone = {(not view.ids[o], *(~view.tokens[tokens.owner == o])) for o in range(30)}
    assert gone <= {tuple(row) for row in masked.tolist()}
    assert len(gone) == 2


def test_related_never_everything() -> None:
    """However few the features, something of the item is left to see."""
    for k in range(1, 8):
        assert not related(np.ones((k, k))).all(axis=1).any()


def test_views_by_name() -> None:
    """Complementary alone gives complementary views; dropout alone gives two draws that keep the ID."""
    tokens, rng = table(), np.random.default_rng(1)
    one, two = views(tokens, ["complementary"], np.eye(4), rng)
    assert (one.tokens ^ two.tokens).all()
    one, two = views(tokens, ["dropout"], np.eye(4), rng)
    assert one.ids.all()
    assert two.ids.all()
    assert (one.tokens != two.tokens).any()
