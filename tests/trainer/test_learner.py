"""What learning may change, where a full update starts, and that a checkpoint is the same learner."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from contract.errors import DataLossError, RefusedError
from contract.messages import HardNegatives
from contract.settings import Full, Model, Train
from tests.trainer.world import LENGTH, features, learn, learner, samples
from trainer import checkpoint, model
from trainer.epoch import full_update
from trainer.learner import Learner
from trainer.packing import Packed, pack, unpack

ID_TENSORS = {"users.values", "users.acc", "items.values", "items.acc"}


def copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in tensors.items()}


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    """Names of tensors whose common rows are not the same bits."""
    return {name for name, old in before.items() if not torch.equal(old, after[name][: len(old)])}


@pytest.mark.parametrize("hidden", [0, 6])
def test_an_incremental_update_changes_the_two_id_tables_and_nothing_else(hidden: int) -> None:
    """Every other parameter, and the last full model, stays bit-identical; a full update changes them all."""
    taught = Learner(Model(dim=8, hidden=hidden), Train(batch=32, negatives=16), Full(), LENGTH)
    features(taught)
    made = samples(600)
    learn(taught, made[:300])
    full_update(taught, made[:300], [])
    live, full = copied(taught.state.live.tensors()), copied(taught.state.full.tensors())
    learn(taught, made[300:])
    assert changed(live, taught.state.live.tensors()) == ID_TENSORS
    assert changed(full, taught.state.full.tensors()) == set()
    full_update(taught, made[300:], [])
    assert changed(live, taught.state.live.tensors()) == set(live)


def test_without_incremental_rate_no_row_moves() -> None:
    """At rate 0 items wait for the full update: none gets the random row that learning starts from."""
    taught, made = learner(incremental_rate=0.0), samples(600)
    learn(taught, made[:300])
    assert not taught.state.live.tables["items"].values.any()
    full_update(taught, made[:300], [])
    before = copied(taught.state.live.tensors())
    learn(taught, made[300:])
    assert changed(before, taught.state.live.tensors()) == set()


def test_a_sample_pulls_alike_however_many_come_with_it() -> None:
    """A part of a batch leaves in its rows' accumulators what its share of a whole batch would, not a batch's worth.

    Eight samples are 8 of 8 and 8 of 32: gradients four times apart, their squares sixteen times.
    """
    made = samples(400)
    taught = learner(batch=8)
    learn(taught, made[:392])
    full_update(taught, made[:392], [])
    part = copy.deepcopy(taught)
    part.train = taught.train.model_copy(update={"batch": 32})
    before = {name: taught.state.live.tables[name].acc.clone() for name in ("users", "items")}
    for one in (taught, part):
        one.step(list(made[392:]))
    for name, acc in before.items():
        of_whole, of_part = (one.state.live.tables[name].acc - acc for one in (taught, part))
        moved = of_whole > 1e-5
        assert moved.any()
        assert torch.allclose(of_part[moved], of_whole[moved] / 16, rtol=0.05)


def test_small_blocks_teach_as_much_as_whole_batches() -> None:
    """When few clicks come and blocks are small, what is learned is as good: hits within a tenth of whole batches'."""
    made = samples(3_000)
    whole, small = learner(batch=64), learner(batch=64)
    for taught, size in ((whole, 64), (small, 4)):
        for n in range(0, len(made), size):
            taught.step(list(made[n : n + size]))
    found = [taught.state.recall.metrics()["recall_at_10"] for taught in (whole, small)]
    assert found[1] > 0.9 * found[0]


def test_a_full_update_starts_from_the_last_full_model() -> None:
    """What was learned incrementally in between has no part in it: other incremental rates, same full model.

    The prior is no part of the models: it goes on counting and learning; here it only counts.
    """
    made = samples(400)
    ends = []
    for rate in (0.0, 5.0):
        train = Train(batch=32, negatives=16, incremental_rate=rate)
        taught = Learner(Model(dim=8, prior_rate=0), train, Full(), LENGTH)
        features(taught)
        learn(taught, made[:320])
        taught.state.rng = np.random.default_rng(7)
        full_update(taught, made[:320], [])
        ends.append(copied(taught.state.full.tensors()))
        assert changed(ends[-1], taught.state.live.tensors()) == set()
    assert changed(*ends) == set()


def test_the_samples_since_the_border_are_learned_incrementally_on_top() -> None:
    """After a full update with later samples the live model differs from the full one in the ID tables only."""
    taught, made = learner(), samples(400)
    learn(taught, made)
    full_update(taught, made[:300], made[300:])
    assert changed(copied(taught.state.full.tensors()), taught.state.live.tensors()) == ID_TENSORS
    assert taught.state.numbers["samples"] == 400  # replayed ones are not counted again
    assert taught.state.counts.now == 400


def saved(taught: Learner, directory: Path, number: int) -> checkpoint.Manifest:
    manifest = checkpoint.Manifest(
        epoch=1,
        version=number,
        sequence=number,
        samples=taught.state.numbers["samples"],
        offsets={"0": number},
        shape={"dim": 8},
        lanes=[],
    )
    checkpoint.save(directory, manifest, pack(taught.state))
    return manifest


def same(a: Packed, b: Packed) -> bool:
    tensors = a.tensors.keys() == b.tensors.keys() and all(torch.equal(t, b.tensors[n]) for n, t in a.tensors.items())
    return tensors and a.plain == b.plain


def test_a_loaded_checkpoint_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    """Save, load into a new learner, go on: the same bits in every tensor and value, full update included."""
    made = samples(900)
    drops = HardNegatives("u1", made[0].ts_ms, ["i3", "i5"], 0)
    straight = learner()
    straight.step([drops])
    learn(straight, made[:320])
    full_update(straight, made[:320], [])
    learn(straight, made[320:480])
    straight.state.forget_user("u3")
    straight.state.forget_items(["i7"])
    saved(straight, tmp_path, 1)
    loaded = checkpoint.load(tmp_path)
    assert loaded is not None
    resumed = learner(known_items=0, known_users=0)
    unpack(resumed.state, loaded[1])
    assert same(pack(straight.state), pack(resumed.state))
    features(resumed)
    features(straight)
    for one in (straight, resumed):
        learn(one, made[480:800])
        full_update(one, made[320:800], made[700:800])
        learn(one, made[800:])
    assert same(pack(straight.state), pack(resumed.state))


def test_a_corrupt_checkpoint_is_refused_and_the_one_before_used(tmp_path: Path) -> None:
    """One flipped bit, a missing file, a torn manifest: never loaded; with no whole one left it stops loudly."""
    taught = learner()
    for number in (1, 2, 3):
        learn(taught, samples(64, seed=number))
        saved(taught, tmp_path, number)
    assert sorted(p.name for p in tmp_path.glob("0*")) == ["00000002", "00000003"]
    data = tmp_path / "00000003" / "tensors.safetensors"
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    loaded = checkpoint.load(tmp_path)
    assert loaded is not None
    assert loaded[0].version == 2
    assert loaded[0].samples == 128
    (tmp_path / "00000002" / "plain.msgpack").unlink()
    with pytest.raises(DataLossError, match="no checkpoint"):
        checkpoint.load(tmp_path)


def test_a_replaced_trainer_cannot_write(tmp_path: Path) -> None:
    """A lock is held by one; a writer of an older epoch is refused."""
    taught = learner()
    manifest = saved(taught, tmp_path, 1)
    newer = checkpoint.Manifest(
        epoch=2, version=1, sequence=0, samples=0, offsets={}, shape=manifest.shape, lanes=manifest.lanes
    )
    checkpoint.save(tmp_path, newer, pack(taught.state))
    with pytest.raises(RefusedError, match="taken over"):
        checkpoint.save(tmp_path, manifest, pack(taught.state))
    with checkpoint.locked(tmp_path), pytest.raises(RefusedError, match="another trainer"), checkpoint.locked(tmp_path):
        pass


def test_the_towers_are_the_published_formulas() -> None:
    """User and item vectors equal a plain numpy reading of contract/updates.py."""
    taught, made = learner(), samples(500)
    learn(taught, made)
    full_update(taught, made, [])
    learn(taught, made[400:])
    state, layers = taught.state, taught.state.live.layers
    tables = {name: rows.values.numpy() for name, rows in state.live.tables.items()}
    asked = [made[-1], made[-2], made[3]]
    batch = taught.batch(asked)
    vectors = taught.user_vectors(batch).numpy()
    for sample, vector in zip(asked, vectors, strict=True):
        parts = [tables["users"][state.users.get(sample.user_id)]]
        newest = [tables["items"][state.items.get(e.item_id)] for e in reversed(sample.history)]
        for decay in taught.model.history_decays:
            weights = decay ** np.arange(len(newest))
            parts.append(weights @ np.array(newest) / weights.sum() if newest else np.zeros(8))
        for owners, table in (
            (state.profile_tokens.lists[state.profiles.get(sample.user_id)], tables["profile"])
            if state.profiles.get(sample.user_id) >= 0
            else (np.zeros(0, int), tables["profile"]),
            (state.context.admit(sample.context), tables["context"]),
        ):
            parts.append(table[owners].sum(0) / max(len(owners), 1) ** 0.5)
        x = np.concatenate(parts) @ layers["user.W"].numpy() + layers["user.b"].numpy()
        np.testing.assert_allclose(vector, x / np.linalg.norm(x), atol=1e-5)
    rows = np.arange(5)
    for row, vector in zip(rows, state.item_vectors(rows).numpy(), strict=True):
        tokens = state.item_tokens.lists[row]
        features_sum = tables["item_features"][tokens].sum(0) / len(tokens) ** 0.5
        x = np.concatenate([tables["items"][row], features_sum]) @ layers["item.W"].numpy() + layers["item.b"].numpy()
        np.testing.assert_allclose(vector, x / np.linalg.norm(x), atol=1e-5)


def test_it_learns_who_likes_what() -> None:
    """In the world where even users like even items, recall rises well above popularity's."""
    taught = learner(learning_rate=0.3)
    learn(taught, samples(3_000, users=20))
    found = taught.state.recall.metrics()
    assert found["recent_recall_at_10"] > found["recent_popularity_recall_at_10"] + 0.1


def test_the_hidden_layer_starts_without_effect() -> None:
    """The second matrix is zero: towers with and without a hidden layer give the same vectors at first."""
    x = torch.randn(4, 40)
    plain, deep = (model.Model(8, 2, hidden, 1).layers for hidden in (0, 5))
    assert torch.equal(model.tower(x, plain, "user"), model.tower(x, deep, "user"))


def test_deleted_items_are_not_learned_again() -> None:
    """Clicks still on their way to a withdrawn item are read and change nothing; a new record brings it back."""
    taught, made = learner(), samples(64)
    learn(taught, made[:32])
    gone = made[40].item_id
    taught.state.forget_items([gone])
    learn(taught, made[32:])
    assert taught.state.numbers["samples"] == 64
    assert taught.state.items.get(gone) < 0
    full_update(taught, made, [])
    assert taught.state.items.get(gone) < 0
    taught.state.catalogue(gone, {})
    assert taught.state.items.get(gone) >= 0


def test_tables_keep_their_bounds() -> None:
    """Past max_user_rows the users longest unseen go, and the next delta says so."""
    taught = learner(max_user_rows=20)
    learn(taught, samples(400, users=40))
    assert len(taught.state.users) <= 20
    assert len(taught.state.users) + len(taught.state.deleted["users"] - taught.state.users.row_of.keys()) == 40
