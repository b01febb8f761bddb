"""Progressive recall by the protocol, and the counts that popularity and the prior are made of."""

import gzip
from collections import defaultdict
from pathlib import Path

import msgspec
import numpy as np
import pytest

from contract.messages import Click
from trainer.evaluate import KS, MISS, POSITIVES_MAX, Positives, Recall, popularity_ranks, ranks
from trainer.frequency import Counts, log_q
from trainer.table import Index

CLICKS = Path(__file__).parents[2] / "examples" / "kuairand" / "clicks.jsonl.gz"
CATALOGUE = 7_583
BATCH = 256


@pytest.mark.skipif(not CLICKS.exists(), reason="the example's clicks are not here")
def test_popularity_has_the_protocols_known_values() -> None:
    """KuaiRand, is_click, half-life 2,000 clicks, batches of 256: 5.99 / 18.46 / 27.74 on the warm half."""
    decode = msgspec.json.Decoder(Click).decode
    with gzip.open(CLICKS) as file:
        clicks = [click for line in file if (click := decode(line)).action == "click"]
    users, items = Index(), Index()
    seen: set[tuple[int, int]] = set()
    rows = []
    for click in sorted(clicks, key=lambda c: c.ts_ms):
        pair = users.admit(click.user_id), items.admit(click.item_id)
        if pair not in seen:
            seen.add(pair)
            rows.append((*pair, click.ts_ms))
    counts, positives, found = Counts(2_000), Positives(), []
    counts.grow(CATALOGUE)
    everything = np.ones(CATALOGUE, bool)
    for n in range(0, len(rows), BATCH):
        user, item, ts_ms = np.array(rows[n : n + BATCH]).T
        assert positives.add(user, item, ts_ms).all()
        place, known, known_ms = positives.pairs(user)
        earlier = known_ms < ts_ms[place]
        now = counts.decayed(slice(0, CATALOGUE))
        found.append(popularity_ranks(now, everything, item, (place[earlier], known[earlier])))
        counts.add(item)
    warm = np.concatenate(found)[len(rows) // 2 :]
    assert [round(100 * float((warm <= k).mean()), 2) for k in KS] == [5.99, 18.46, 27.74]


def test_ranks_against_a_slow_reading_of_the_rules() -> None:
    """Ties count against, earlier positives are left out, an item not in the catalogue is a miss."""
    rng = np.random.default_rng(5)
    scores = rng.integers(0, 4, (6, 9)).astype(np.float32)
    items = np.array([0, 3, -1, 8, 8, 2])
    left_out = np.array([0, 0, 3, 5]), np.array([1, 2, 4, 7])
    excluded = defaultdict(set)
    for place, item in zip(*left_out, strict=True):
        excluded[int(place)].add(int(item))
    wanted = [
        MISS if item < 0 else sum(s >= scores[i, item] for j, s in enumerate(scores[i]) if j not in excluded[i])
        for i, item in enumerate(items)
    ]
    assert ranks(scores, items, left_out).tolist() == wanted
    order = scores[0].astype(np.float64)
    same = np.repeat(scores[:1], 6, axis=0)
    everything = np.ones(9, bool)
    assert popularity_ranks(order, everything, items, left_out).tolist() == ranks(same, items, left_out).tolist()


def test_only_the_first_click_on_an_item_is_scored() -> None:
    """A user's repeat is no positive to score, in one batch or in two."""
    positives = Positives()
    assert positives.add(np.array([1, 1, 2]), np.array([5, 5, 5]), np.array([10, 11, 12])).tolist() == [
        True,
        False,
        True,
    ]
    assert positives.add(np.array([1, 1]), np.array([5, 6]), np.array([13, 14])).tolist() == [False, True]
    again = Positives()
    again.load(positives.state())
    assert again.by_user == positives.by_user == {1: {5: 10, 6: 14}, 2: {5: 12}}


def test_the_newest_positives_of_a_user_are_kept() -> None:
    """Past the bound a user's oldest positives go, nobody else's; a checkpoint goes on with the same ones."""
    positives, more = Positives(), POSITIVES_MAX + 7
    items = np.arange(more)
    assert positives.add(np.array([2]), np.array([0]), np.array([0])).all()
    assert positives.add(np.full(more, 1), items, items).all()
    again = Positives()
    again.load(positives.state())
    for kept in (positives, again):
        assert list(kept.by_user[1]) == list(range(7, more))
        assert kept.by_user[2] == {0: 0}
        assert kept.add(np.array([1, 1, 1]), np.array([8, 0, 7]), np.full(3, more)).tolist() == [False, True, True]
        assert list(kept.by_user[1])[:1] + list(kept.by_user[1])[-2:] == [9, 0, 7]


def test_counts_decay_by_clicks() -> None:
    """A click k clicks ago counts 2 ** -(k / half_life), however the clicks were cut into batches."""
    clicks = np.random.default_rng(1).integers(0, 7, 500)
    ages = len(clicks) - 1 - np.arange(len(clicks))
    wanted = np.bincount(clicks, 0.5 ** (ages / 50), minlength=7)
    for size in (1, 33, 500):
        counts = Counts(50)
        counts.grow(7)
        for n in range(0, len(clicks), size):
            counts.add(clicks[n : n + size])
        np.testing.assert_allclose(counts.decayed(slice(0, 7)), wanted, rtol=1e-9)
        assert counts.now == 500


def test_log_q_is_the_expected_number_of_appearances() -> None:
    """B positives with p = (count + 1/2) / total and the drawn ones together; never clicked is still finite."""
    counts = np.array([10.0, 0.0, 30.0])
    found = log_q(counts, 41.5, np.array([2.0, 0.0, 4.0]), 100)
    np.testing.assert_allclose(np.exp(found), [100 * 10.5 / 41.5 + 2, 100 * 0.5 / 41.5, 100 * 30.5 / 41.5 + 4])


def test_recent_recall_forgets_old_batches() -> None:
    """Cumulative figures hold everything, recent ones about the last 20,000 scored samples."""
    recall = Recall()
    miss, hit = np.full(5_000, 1_000), np.full(5_000, 1)
    for _ in range(4):
        recall.add(miss, hit)
    for _ in range(4):
        recall.add(hit, miss)
    found = recall.metrics()
    assert found["scored"] == 40_000
    assert found["recall_at_10"] == found["popularity_recall_at_10"] == 0.5
    assert found["recent_recall_at_50"] == 1.0
    assert found["recent_popularity_recall_at_50"] == 0.0


def test_pairs_are_what_is_remembered() -> None:
    """Whatever was added, forgotten, freed or loaded in between: `pairs` gives each user's positives in their order."""
    rng, kept = np.random.default_rng(3), Positives()
    for turn in range(60):
        users = rng.integers(6, size=200) * rng.integers(2, size=200)  # user 0 clicks most, past what is remembered
        kept.add(users, rng.integers(3_000, size=200), np.arange(200) + 200 * turn)
        if turn % 7 == 3:
            kept.forget_items(set(rng.integers(3_000, size=50).tolist()))
        if turn % 11 == 5:
            kept.by_user.pop(4, None)
        if turn % 13 == 6:
            kept.load(kept.state())
        asked = rng.integers(8, size=12)
        wanted = [
            (place, item, ts)
            for place, user in enumerate(asked.tolist())
            for item, ts in kept.by_user.get(user, {}).items()
        ]
        assert list(zip(*(part.tolist() for part in kept.pairs(asked)), strict=True)) == wanted
    assert len(kept.by_user[0]) > 0.9 * POSITIVES_MAX
