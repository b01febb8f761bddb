"""The schedule of full updates on a real Kafka: whatever dies, the same verdict and the same rows."""

import functools
import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from contract import kafka
from contract.messages import Sample
from contract.settings import Settings, environment_of
from headrace import audit_trainer, full_by_hand, status
from tests.conftest import SettingsFactory
from tests.trainer.process import put, put_features, started, stopped, until, updates
from tests.trainer.world import samples
from trainer import checkpoint
from trainer.learner import Learner

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


def prepared(settings: Settings, count: int = 700) -> Settings:
    """All that the trainer will read: a day and a half, or more."""
    kafka.create_topics(settings)
    put_features(settings)
    put_all(settings, samples(count, gap_ms=200_000))
    return settings


def put_all(settings: Settings, made: list[Sample]) -> None:
    """Samples with a marker behind every CHUNK."""
    for n in range(0, len(made), CHUNK):
        put(settings, made[n : n + CHUNK], idle=n + CHUNK >= len(made))


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
        pytest.param("full.before_border:1", 0, marks=pytest.mark.long),
        ("full.after_border:1", 0),
        pytest.param("full.trial:1", 0, marks=pytest.mark.long),
        pytest.param("full.shadow:2", 0, marks=pytest.mark.long),
        pytest.param("full.verdict:1", 0, marks=pytest.mark.long),
        pytest.param("full.before_checkpoint:1", 0, marks=pytest.mark.long),
        ("full.after_checkpoint:1", 0),
        ("full.catch_up:2", FAR_MS),
        pytest.param("full.verdict:1", FAR_MS, marks=pytest.mark.long),
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
    "point",
    [
        pytest.param("full.child:1", marks=pytest.mark.long),
        "full.progress:1",
        pytest.param("full.before_candidate:1", marks=pytest.mark.long),
        pytest.param("full.after_candidate:1", marks=pytest.mark.long),
    ],
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


def test_a_refused_candidate_is_kept_and_nothing_of_it_is_served(settings: SettingsFactory, tmp_path: Path) -> None:
    """Two days, both refused: the version stays, the last full model too, and the second day does not hold the first.

    The log, status and verdict.json say why.
    """
    own = prepared(settings(**{**WORLD, "gate.item_share": 0.01}), 1_050)
    with (tmp_path / "log").open("wb") as log:
        process = started(own, log=log)
        until(lambda: (page(own).get("full", {}).get("last") or {}).get("number") == 2)
        shown = status.collect(own)["gate"]
        assert stopped(process) == 0
    end = ended(own)
    assert (end.version, end.judged["outcome"], end.judged["samples"]) == (1, "refused", 432)
    assert [line.split("outcome=")[1].split()[0] for line in lines(tmp_path / "log", "event=gate")] == ["refused"] * 2
    assert all("of the day's 432 samples" in line for line in lines(tmp_path / "log", "event=gate"))
    assert (shown["outcome"], shown["day"]) == ("refused", "2022-04-26")
    assert "click flood" in shown["reason"]
    untaught = Learner(own.model, own.train, own.full, own.history.length).state.full.tensors()
    assert all(torch.equal(end.tensors[f"full.layer.{n}"], untaught[f"layer.{n}"]) for n in ("user.W", "item.W"))
    assert not any(end.tensors[f"full.{name}.values"].any() for name in ("users", "items", "profile"))
    for number in ("00000001", "00000002"):
        kept = sorted(path.name for path in (own.files / "full" / number).iterdir())
        assert kept == ["candidate", "verdict.json"]


def lines(log: Path, words: str) -> list[str]:
    """Lines of a log that hold some words."""
    return [line for line in log.read_text().splitlines() if words in line]


def test_a_full_update_by_hand(settings: SettingsFactory) -> None:
    """`headrace train full`: bad days are one line and exit 2, a dry run publishes nothing, one in earnest does."""
    own = prepared(settings(**WORLD, **{"gate.item_share": 1.0}))

    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, **environment_of(own)}
        words = [sys.executable, "-m", "headrace", "train", "full", *arguments]
        return subprocess.run(words, capture_output=True, text=True, env=environment, check=False, timeout=120)

    assert command().returncode == 3  # no trainer
    process = started(own)
    until(lambda: page(own).get("version") == 2 and page(own)["samples"] >= 650)
    for arguments, words in (
        (["--day", "2031-01-01"], "it holds 2022-04-25 to 2022-04-26"),
        (["--day", "7"], "wants a date"),
    ):
        done = command(*arguments)
        assert (done.returncode, len(done.stderr.strip().splitlines())) == (2, 1), done.stderr
        assert words in done.stderr
    for number, (day, arguments) in enumerate((("2022-04-25", ["--day", "2022-04-25", "--dry-run"]), ("", []))):
        done = command(*arguments, "--no-wait", "--json")
        assert done.returncode == 0, done.stderr
        until(lambda: page(own)["full"]["phase"] == "shadowing")
        assert command().returncode == 2  # one is under way
        put_all(own, samples(350, seed=7 + number, gap_ms=1_000))
        verdict = full_by_hand.wait(own, json.loads(done.stdout)["request"], lambda _: None)
        assert verdict["outcome"] == "passed"
        assert verdict["dry_run"] == bool(day)
        assert verdict["samples"] == 432 if day else verdict["samples"] > 200
        assert page(own)["version"] == (2 if day else 3)
    assert stopped(process) == 0
    assert ended(own).version == 3
