"""The user tower against its formulas."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from contract.messages import History, RingEntry, ShownEntry
from publisher.tower import UserTower, recent_clicks, seen_items, token_sum, user_tower
from tests.publisher.worlds import DECAYS, DIM, START, TOKENS, new_world, replace_manifest


def some_tower(hidden: int) -> UserTower:
    """A tower with random layers."""
    world = new_world()
    rng = np.random.default_rng(9)
    width = (3 + len(DECAYS)) * DIM
    world.tensors["user.W1"] = rng.normal(size=(width, 16)).astype(np.float32)
    world.tensors["user.b1"] = rng.normal(size=16).astype(np.float32)
    world.tensors["user.W2"] = rng.normal(size=(16, DIM)).astype(np.float32)
    return user_tower(replace_manifest(START, hidden=hidden, tokens=TOKENS), world.tensors)


@given(st.integers(1, 40), st.sampled_from([0, 16]), st.integers(0, 1_000))
def test_batch_equals_one_by_one(size: int, hidden: int, seed: int) -> None:
    """A batch gives, bit for bit, what its users give one by one."""
    tower = some_tower(hidden)
    x = np.random.default_rng(seed).normal(size=(size, (3 + len(DECAYS)) * DIM)).astype(np.float32)
    batch = tower.vectors(x)
    for n in range(size):
        assert batch[n].tobytes() == tower.vectors(x[n : n + 1])[0].tobytes()
    assert np.allclose(np.linalg.norm(batch, axis=1), 1, atol=1e-6)


def test_hidden_layer_by_hand() -> None:
    """normalise(x @ W + b + relu(x @ W1 + b1) @ W2), in float64 by hand."""
    tower = some_tower(16)
    assert tower.hidden is not None
    x = np.random.default_rng(4).normal(size=(1, tower.w.shape[0])).astype(np.float32)
    w1, b1, w2 = (t.astype(np.float64) for t in tower.hidden)
    v = x @ tower.w.astype(np.float64) + tower.b + np.maximum(x @ w1 + b1, 0) @ w2
    assert np.allclose(tower.vectors(x)[0], (v / np.linalg.norm(v))[0], atol=1e-5)


def test_zero_stays_zero() -> None:
    """A user of whom nothing is known, under a tower without bias, has no direction."""
    tower = some_tower(0)
    nothing = tower.inputs(None, [], {}, {})
    assert not nothing.any()
    flat = UserTower(**{**vars(tower), "b": np.zeros(DIM, np.float32)})
    assert not flat.vectors(nothing[None, :]).any()


def test_bags_by_hand() -> None:
    """bag_i = sum_k decay_i**k row_k / sum_k decay_i**k, newest first, behind the ID row."""
    tower = some_tower(0)
    rows = [np.full(DIM, v, np.float32) for v in (1, 2, 4)]
    x = tower.inputs(np.full(DIM, 7, np.float32), rows, {}, {})
    assert np.allclose(x[:DIM], 7)
    assert np.allclose(x[DIM : 2 * DIM], (1 + 0.6 * 2 + 0.36 * 4) / (1 + 0.6 + 0.36))
    assert np.allclose(x[2 * DIM : 3 * DIM], (1 + 0.9 * 2 + 0.81 * 4) / (1 + 0.9 + 0.81))


def test_token_sum_counts_unknown_tokens() -> None:
    """Tokens are summed over sqrt(their number); an unknown one is a zero row, but is one of them."""
    rows = np.eye(2, DIM, dtype=np.float32)
    row_of = {("tag", "=a"): 0, ("tag", "=b"): 1}
    total = token_sum(rows, row_of, {"tag": ["a", "b", "new"], "other": "x"})
    assert np.allclose(total, [0.5, 0.5, 0, 0, 0, 0, 0, 0])


def click(offset: int, item: str, ts_ms: int) -> RingEntry:
    return RingEntry(offset, item, ts_ms, "click")


def test_recent_clicks_are_the_newest_of_the_ring() -> None:
    """Newest L by (ts, offset) of the last 4 L by offset; what an undecided click kept beyond the ring is not used.

    offset  1    2    3    4    5         L = 1, ring = offsets 2 to 5
    ts      99   40   60   60   50
    """
    clicks = [click(1, "a", 99), click(2, "b", 40), click(3, "c", 60), click(4, "d", 60), click(5, "e", 50)]
    assert recent_clicks(History(clicks), 1) == ["d"]
    assert recent_clicks(History(clicks), 2) == ["a", "d"]
    assert recent_clicks(History(clicks), 9) == ["a", "d", "c", "e", "b"]


def test_seen_items() -> None:
    """None excludes nothing, clicked the clicked ones, shown the shown and the clicked ones."""
    history = History([click(1, "a", 1)], [ShownEntry(1, 1, ["b", "c"]), ShownEntry(2, 2, ["c", "d"])])
    assert seen_items(history, "none") == set()
    assert seen_items(history, "clicked") == {"a"}
    assert seen_items(history, "shown") == {"a", "b", "c", "d"}
