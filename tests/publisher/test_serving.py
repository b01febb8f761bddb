"""From `updates` to answers: a publisher and a recall server on a real Kafka and Redis."""

from collections.abc import Iterator

import pytest

from contract.settings import Settings
from tests.conftest import SettingsFactory
from tests.publisher.worlds import Recall, Trainer, World, new_world, publishing, serving, wait_for


@pytest.fixture
def world() -> World:
    return new_world()


@pytest.fixture
def own(settings: SettingsFactory) -> Settings:
    return settings(**{"model.dim": 8, "kafka.partitions": 2})


@pytest.fixture
def trainer(own: Settings) -> Trainer:
    return Trainer(own)


@pytest.fixture
def recall(own: Settings, trainer: Trainer, world: World) -> Iterator[Recall]:
    """A publisher and a server that answer from version 1 of the world."""
    trainer.send(world.snapshot())
    with publishing(own), serving(own) as running:
        wait_for(lambda: running.at(1, 0))
        yield running


def test_score_is_published_inner_product_plus_prior(recall: Recall, trainer: Trainer, world: World) -> None:
    """The score served equals the inner product of what was published plus the prior, by the formulas in float64."""
    trainer.history("u3", ["i1", "i2", "gone", "i3"])
    trainer.profile("u3", country="de")
    wait_for(lambda: recall.get("/recall/u3")["basis"] == ["id", "history", "profile"])
    answer = recall.get("/recall/u3", k=1_000, exclude_seen="none", context_tab="1")
    assert answer["basis"] == ["id", "history", "profile", "context"]
    assert answer["degraded"] is None
    query = world.query("u3", ["i3", "i2", "i1"], [("country", "=de")], [("tab", "=1")])
    wanted = world.scores(query)
    found = {c["item"]: c["score"] for c in answer["candidates"]}
    assert found.keys() == wanted.keys()
    assert all(abs(found[i] - wanted[i]) < 1e-5 for i in wanted)
    assert [c["score"] for c in answer["candidates"]] == sorted(found.values(), reverse=True)
