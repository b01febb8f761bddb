"""The live loop and `headrace evaluate` on the example: the same schedule, the same recall."""

import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from contract.settings import load
from headrace.evaluate import evaluate_model
from headrace.variants import VARIANTS
from headrace.world import read_world
from tests.conftest import SettingsFactory
from tests.end_to_end.stack import Stack
from trainer import checkpoint
from trainer.evaluate import Recall

EXAMPLE = Path(__file__).parents[2] / "examples" / "kuairand"
SAME = 0.003  # 0.3 points
SCHEDULE = {
    "full.cutover_deadline_ms": 0,
    "train.max_wait_ms": 10**8,
    "train.checkpoint_interval_ms": 10_000,
    "publish.interval_ms": 3_600_000,
    "publish.max_wait_ms": 60_000,
    "streams.commit_interval_ms": 250,
    "join.idle_timeout_ms": 10_000,
}


@pytest.mark.timeout(400)
def test_live_and_evaluate_agree(settings: SettingsFactory, tmp_path: Path) -> None:
    """Six event days through streams and trainer: six full updates judged, and recall within 0.3 points of evaluate's.

    The partitions of `samples` are read in nearly, not exactly, the order of event time: hence not the same bits.
    """
    own = settings(**SCHEDULE)
    _, facts = evaluate_model(read_world(EXAMPLE, load({})), load({}), VARIANTS["model"], lambda *_: None)
    stack = Stack(own, tmp_path)
    stack.start("streams")
    try:
        done = stack.command("produce", "--dir", str(EXAMPLE), "--speed", "0")
        assert done.returncode == 0, done.stderr
        stack.until("all is joined", lambda: is_joined(stack), 120)
        stack.start("trainer")
        wanted = facts["samples"] - own.train.batch
        stack.until("all is learned", lambda: page(own.train.port)["samples"] > wanted, 300)
        last = page(own.train.port)["full"]["last"]
    finally:
        stack.stop()
    loaded = checkpoint.load(own.files / "checkpoints")
    assert loaded is not None
    live = Recall()
    live.load(loaded[1].plain["recall"])
    for name, value in live.metrics().items():
        if "recall" in name and "recent" not in name:
            assert value == pytest.approx(facts["live_metric"][name], abs=SAME), name
    assert len(facts["gate"]) >= 5
    assert loaded[1].plain["numbers"]["candidates"] == len(facts["gate"])
    assert last["number"] == len(facts["gate"])
    assert last["day"] == facts["gate"][-1]["day"]
    assert last["paired"] == own.gate.min_samples


def is_joined(stack: Stack) -> bool:
    """Whether streams has read everything, features too."""
    rows = json.loads(stack.command("lag", "--json").stdout)
    ours = [row for row in rows if ".streams" in row["group"]]
    return bool(ours) and not sum(row["lag"] for row in ours) and any(row["end"] for row in ours)


def page(port: int) -> Any:
    """/healthz of the trainer."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5) as answer:
        return json.load(answer)
