"""The self-supervised loss of the item tower."""

import numpy as np
import pytest
import torch

from trainer.augment import Tokens, View
from trainer.model import Model, token_sums, tower
from trainer.self_supervision import Catalogue, Plan, self_loss, view_vectors
from trainer.tokens import Owners

DIM = 8


def world(items: int = 12) -> tuple[Owners, torch.Tensor, torch.Tensor]:
    """Items with a tag list and a kind; random ID rows [items, D] and token rows."""
    owners = Owners(DIM)
    for row in range(items):
        features = {"tag": [str(row % 5), str(row % 7)], "kind": str(row % 3)}
        owners.set(row, owners.vocabulary.admit(features))
    draw = torch.Generator().manual_seed(1)
    tokens = owners.vocabulary.index.rows
    return owners, torch.randn(items, DIM, generator=draw), torch.randn(tokens, DIM, generator=draw)


def test_all_kept_is_the_served_vector() -> None:
    """A view that masks nothing gives the vector that is served."""
    owners, own, rows = world()
    catalogue = Catalogue(np.arange(12), owners, np.random.default_rng(1))
    tokens = catalogue.tokens(np.arange(12))
    layers = Model(DIM, 2, 0, 1).layers
    whole = View(np.ones(len(tokens.token), bool), np.ones(12, bool))
    seen = view_vectors(own, rows[torch.from_numpy(tokens.token)], tokens, whole, layers)
    flat, lengths = owners.flat(np.arange(12))
    sums = token_sums(rows, torch.from_numpy(flat), torch.from_numpy(lengths))
    assert torch.allclose(seen, tower(torch.cat([own, sums], 1), layers, "item"), atol=1e-6)


def test_loss_by_hand() -> None:
    """Two items whose views are orthogonal unit vectors: L = -log(e^(1/tau) / (e^(1/tau) + 1)), for each of both."""
    own = torch.eye(DIM)[:2]
    tokens = Tokens(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64), 2, 2)
    view = View(np.zeros(0, bool), np.ones(2, bool))
    layers = Model(DIM, 2, 0, 1).layers
    loss = self_loss(own, torch.zeros(0, DIM), Plan(np.arange(2), tokens, (view, view)), layers, 0.5)
    assert float(loss.detach()) == pytest.approx(-np.log(np.exp(2) / (np.exp(2) + 1)), rel=1e-5)


def test_masked_gets_no_gradient() -> None:
    """What both views mask does not move; what one of them shows does."""
    owners, own, rows = world()
    plan = Catalogue(np.arange(12), owners, np.random.default_rng(1)).plan(8, ["mask"], np.random.default_rng(3))
    assert plan is not None
    ids = own[torch.from_numpy(plan.rows)].requires_grad_()
    tokens = rows[torch.from_numpy(plan.tokens.token)].requires_grad_()
    self_loss(ids, tokens, plan, Model(DIM, 2, 0, 1).layers, 0.2).backward()  # type: ignore[no-untyped-call]
    one, two = plan.views
    assert ids.grad is not None
    assert tokens.grad is not None
    moved = tokens.grad.abs().sum(1).numpy() > 0
    assert not moved[~(one.tokens | two.tokens)].any()
    assert moved[one.tokens | two.tokens].all()
    assert not (ids.grad.abs().sum(1).numpy() > 0)[~(one.ids | two.ids)].any()


def test_descent_brings_views_together() -> None:
    """Minimising the loss makes an item's two views closer than views of different items."""
    owners, own, rows = world()
    catalogue, rng = Catalogue(np.arange(12), owners, np.random.default_rng(1)), np.random.default_rng(2)
    own.requires_grad_()
    rows.requires_grad_()
    layers = Model(DIM, 2, 0, 1).layers
    optimizer = torch.optim.Adagrad([own, rows], lr=0.3)
    losses = []
    for _ in range(150):
        plan = catalogue.plan(12, ["mask", "dropout", "complementary", "correlated"], rng)
        assert plan is not None
        places, tokens = torch.from_numpy(plan.rows), torch.from_numpy(plan.tokens.token)
        loss = self_loss(own[places], rows[tokens], plan, layers, 0.2)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-20:]) < 0.7 * np.mean(losses[:20])


def test_items_uniform() -> None:
    """Every listed item is drawn equally often, whatever its clicks: counts of 4,000 draws stay within 5 sigma."""
    owners, _, _ = world()
    catalogue, rng = Catalogue(np.arange(2, 12), owners, np.random.default_rng(1)), np.random.default_rng(2)
    drawn = np.zeros(12, int)
    for _ in range(800):
        plan = catalogue.plan(5, ["mask"], rng)
        assert plan is not None
        assert len(set(plan.rows.tolist())) == 5
        drawn[plan.rows] += 1
    assert (drawn[:2] == 0).all()
    assert (abs(drawn[2:] - 400) < 5 * np.sqrt(800 * 0.25)).all()


def test_nothing_to_compare() -> None:
    """One item, or items without features, give no plan."""
    owners, _, _ = world()
    assert Catalogue(np.arange(1), owners, np.random.default_rng(1)).plan(8, ["mask"], np.random.default_rng(1)) is None
    bare = Catalogue(np.arange(5), Owners(DIM), np.random.default_rng(1))
    assert bare.plan(8, ["mask"], np.random.default_rng(1)) is None
