"""A day of the example is poisoned: the learner learns it as it comes, and no full update of it is served."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from contract.messages import Sample
from contract.settings import load
from headrace.evaluate import evaluate_model
from headrace.variants import VARIANTS
from headrace.world import World, read_world

EXAMPLE = Path(__file__).parents[2] / "examples" / "kuairand"
DAY = "2022-04-28"


@pytest.fixture(scope="module")
def example() -> World:
    """The example up to the end of the day after the poisoned one."""
    world = read_world(EXAMPLE, load({}))
    end = next(n for n, sample in enumerate(world.samples) if day_of(sample) == "2022-04-30")
    return replace(world, samples=world.samples[:end], passed_ms=world.passed_ms[:end])


def day_of(sample: Sample) -> str:
    """Date of a sample, UTC."""
    return datetime.fromtimestamp(sample.ts_ms / 1000, UTC).date().isoformat()


def clean(world: World) -> World:
    """Nothing is wrong with it."""
    return world


def shuffled(world: World) -> World:
    """The clicked items of one day, dealt out anew: as popular as before, and nobody's taste."""
    at = [n for n, sample in enumerate(world.samples) if day_of(sample) == DAY]
    dealt = np.random.default_rng(0).permutation(at).tolist()
    samples = list(world.samples)
    for n, other in zip(at, dealt, strict=True):
        samples[n] = msgspec.structs.replace(samples[n], item_id=world.samples[other].item_id)
    return replace(world, samples=samples)


def flooded(world: World) -> World:
    """For every click of one day another one, by some other user of that day, on always the same item."""
    rng = np.random.default_rng(0)
    crowd = [sample for sample in world.samples if day_of(sample) == DAY]
    samples, passed_ms = [], []
    for sample, passed in zip(world.samples, world.passed_ms, strict=True):
        both = [sample]
        if day_of(sample) == DAY:
            who = crowd[rng.integers(len(crowd))]
            both.append(msgspec.structs.replace(who, ts_ms=sample.ts_ms, item_id=world.items[0].item_id))
        samples += both
        passed_ms += [passed] * len(both)
    return replace(world, samples=samples, passed_ms=passed_ms)


def judged(world: World) -> dict[str, dict[str, Any]]:
    """The gate's verdict on each day's full update, with the shipped defaults."""
    _, facts = evaluate_model(world, load({}), VARIANTS["model"], lambda *_: None)
    return {one["day"]: one for one in facts["gate"]}


@pytest.mark.parametrize(
    ("poisoned", "outcome", "words"),
    [
        (clean, "passed", "against"),
        (shuffled, "refused", "clicks that follow nobody's taste"),
        (flooded, "refused", "50 % of the day's"),
    ],
)
def test_the_poisoned_day_alone_is_refused(
    poisoned: Callable[[World], World], outcome: str, words: str, example: World
) -> None:
    """Shuffled labels and a click flood are refused, with the reason; the same day clean, and the days before, pass."""
    found = judged(poisoned(example))
    assert len(found) >= 4
    assert found[DAY]["outcome"] == outcome
    assert words in found[DAY]["reason"]
    assert {one["outcome"] for day, one in found.items() if day < DAY} == {"passed"}
