"""Token tables that are full."""

import msgspec
import numpy as np
import torch

from tests.trainer.world import START_MS, learn, learner, samples
from trainer import delta
from trainer.epoch import full_update
from trainer.learner import gather
from trainer.model import token_sums
from trainer.optimizer import gradient_of
from trainer.packing import pack, unpack
from trainer.table import Index, Rows
from trainer.tokens import MAX_BYTES, UNKNOWN, Vocabulary


def test_a_full_table_knows_its_tokens_and_takes_no_new_ones() -> None:
    """Past max_rows, or past the bytes a manifest has room for, a new token is UNKNOWN; old ones keep their rows."""
    few = Vocabulary(2)
    assert few.admit({"tag": ["a", "b", "c"]}).tolist() == [0, 1, UNKNOWN]
    assert few.admit({"tag": ["c", "b"]}).tolist() == [UNKNOWN, 1]
    long = Vocabulary()
    rows = [int(long.admit({"session": f"{n:040}"})[0]) for n in range(MAX_BYTES // 40)]
    assert rows[-1] == UNKNOWN
    assert long.admit({"session": f"{0:040}"}).tolist() == [0]
    assert 0.9 * MAX_BYTES < len(msgspec.msgpack.encode(long.tokens())) < MAX_BYTES + 10


def test_features_that_came_before_have_the_same_rows() -> None:
    """Remembering sets of features changes no row: not of look-alikes, not in a full table, not after a checkpoint."""
    sets: list[dict[str, object]] = [{"a": 1}, {"a": True}, {"a": "1"}, {"a": [1, "1"]}, {"b": 1}, {"a": 1.0}, {}]
    plain, quick = Vocabulary(4), Vocabulary(4)
    for features in sets * 2:
        assert quick.admit_often(features).tolist() == plain.admit(features).tolist()
    assert quick.index.rows == 4
    Index.__init__(quick.index, ["1:b#1"])
    assert quick.admit_often({"b": 1}).tolist() == [0]


def test_an_unknown_token_is_a_zero_row_that_counts() -> None:
    """As on the server: it adds nothing, divides all the same, and no row moves for it."""
    table = Rows(3, capacity=4)
    table.values[:] = torch.arange(12.0).reshape(4, 3)
    asked, lengths = np.array([2, -1, -1, 1]), torch.tensor([2, 1, 1])
    got = gather(table, asked)
    sums = token_sums(got.values, got.places, lengths)  # [3, D]
    wanted = torch.stack([table.values[2] / torch.tensor(2.0).sqrt(), torch.zeros(3), table.values[1]])
    assert torch.equal(sums, wanted)
    assert torch.equal(token_sums(table.values, torch.from_numpy(asked), lengths), wanted)
    sums.sum().backward()  # type: ignore[no-untyped-call]
    assert got.rows.tolist() == [1, 2]
    assert torch.allclose(gradient_of(got.values), torch.tensor([[1.0] * 3, [0.5**0.5] * 3]))


def test_learning_goes_on_with_full_tables() -> None:
    """Steps, a full update, a snapshot and a checkpoint work when contexts, profiles and items have unknown tokens."""
    taught, made = learner(max_token_rows=2), samples(200)
    learn(taught, made)
    full_update(taught, made[:150], made[150:])
    state = taught.state
    tables = state.context, state.profile_tokens.vocabulary, state.item_tokens.vocabulary
    assert [vocabulary.index.rows for vocabulary in tables] == [2, 2, 2]
    assert all(torch.isfinite(tensor).all() for tensor in state.live.tensors().values())
    assert delta.update("snapshot", 1, 0, state, taught.model, taught.length, START_MS, 100_000)
    again = learner(known_items=0, known_users=0, max_token_rows=2).state
    unpack(again, pack(state))
    assert again.context.admit({"page": "new"}).tolist() == [UNKNOWN]
