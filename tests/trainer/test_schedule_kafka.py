"""The schedule of full updates on a real Kafka: whatever dies, the same verdict and the same rows."""

import functools
import json
import signal
import urllib.request
from typing import Any, NamedTuple

import pytest
import torch

from contract import kafka
from contract.settings import Settings
from headrace import audit_trainer
from tests.conftest import SettingsFactory
from tests.trainer.process import put, put_features, started, stopped, until, updates
from tests.trainer.world import samples
from trainer import checkpoint

CHUNK = 50  # samples of one transaction, with its markers
FAR_MS = 10**12  # the served model never waits
WORLD = {
    "train.batch": 32,
    "train.negatives": 16,
    "train.max_wait_ms": 10**8,  # blocks by count alone
    "model.dim": 8,
    "full.min_samples": 50,
    "full.cutover_deadline_ms": 0,
    "gate.min_samples": 30,
    "gate.tolerance": 1.0,
}


class End(NamedTuple):
    """What is left of a run."""

    learned: int
    judged: dict[str, Any]
    tensors: dict[str, torch.Tensor]
    version: int


def page(settings: Settings) -> dict[str, Any]:
    """/healthz of the trainer; empty while it does not answer."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{settings.train.port}/healthz", timeout=2) as answer:
            found: dict[str, Any] = json.load(answer)
            return found
    except OSError:
        return {}


def prepared(settings: Settings) -> Settings:
    """All that the trainer will read: a day and a half."""
    kafka.create_topics(settings)
    put_features(settings)
    made = samples(700, gap_ms=200_000)
    for n in range(0, len(made), CHUNK):
        put(settings, made[n : n + CHUNK], idle=n + CHUNK == len(made))
    return settings


def settled(settings: Settings, learned: int) -> bool:
    """The full update is judged, and so much is learned."""
    found = page(settings)
    return bool(found) and found["full"]["last"] is not None and found["samples"] >= learned


def ended(settings: Settings) -> End:
    """Stop the trainer's effects: what its last checkpoint holds, which the audit agrees with."""
    loaded = checkpoint.load(settings.files / "checkpoints")
    assert loaded is not None
    manifest, packed = loaded
    models = {name: t for name, t in packed.tensors.items() if name.startswith(("live.", "full."))}
    assert all(not check.missing and not check.extra for check in audit_trainer.check(settings, lambda *_: None))
    assert max(u.version for u in updates(settings)) == manifest.version
    return End(manifest.samples, packed.plain["full"]["judged"], models, manifest.version)


def same(one: End, other: End) -> None:
    """Verdict, version, samples and every row."""
    assert one.judged == other.judged
    assert (one.learned, one.version) == (other.learned, other.version)
    assert [name for name, tensor in one.tensors.items() if not torch.equal(tensor, other.tensors[name])] == []


@pytest.fixture(scope="module")
def straight(module_settings: SettingsFactory) -> End:
    """A run in which nothing dies."""
    settings = prepared(module_settings(**WORLD))
    process = started(settings)
    until(functools.partial(settled, settings, 650))
    assert stopped(process) == 0
    return ended(settings)


def test_a_day_is_taken_over(straight: End) -> None:
    """One border, one candidate that passes on exactly gate.min_samples paired samples, and is version 2."""
    assert straight.judged["outcome"] == "passed"
    assert straight.judged["paired"] == 30
    assert straight.judged["day"] == "2022-04-25"
    assert straight.version == 2


@pytest.mark.parametrize(
    ("point", "deadline_ms"),
    [
        ("full.before_border:1", 0),
        ("full.after_border:1", 0),
        ("full.trial:1", 0),
        ("full.shadow:2", 0),
        ("full.verdict:1", 0),
        ("full.before_checkpoint:1", 0),
        ("full.after_checkpoint:1", 0),
        ("full.catch_up:2", FAR_MS),
        ("full.verdict:1", FAR_MS),
    ],
)
def test_a_trainer_that_dies_goes_on(point: str, deadline_ms: int, straight: End, settings: SettingsFactory) -> None:
    """Killed at any point, also while catching up, it comes to the same verdict and the same rows."""
    own = prepared(settings(**{**WORLD, "full.cutover_deadline_ms": deadline_ms}))
    assert started(own, point).wait(60) == -signal.SIGKILL
    process = started(own)
    until(functools.partial(settled, own, straight.learned))
    assert stopped(process) == 0
    same(ended(own), straight)


@pytest.mark.parametrize(
    "point", ["full.child:1", "full.progress:1", "full.before_candidate:1", "full.after_candidate:1"]
)
def test_a_child_that_dies_is_started_again(point: str, straight: End, settings: SettingsFactory) -> None:
    """The child dies, then the trainer, too; the next child goes on from the place that was kept, to the same rows."""
    own = prepared(settings(**WORLD))
    first = started(own, point)
    until(lambda: page(own).get("full", {}).get("deaths", 0) or settled(own, straight.learned))
    stopped(first, signal.SIGKILL)
    process = started(own)
    until(functools.partial(settled, own, straight.learned))
    assert stopped(process) == 0
    same(ended(own), straight)
