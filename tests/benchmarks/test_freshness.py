"""The freshness benchmark's cores: stale views, modes, histories at an earlier moment, resuming."""

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from benchmarks.progressive import MODES, Course
from benchmarks.results_file import ResultsFile
from benchmarks.served import NEVER_MS, PARTS, Rings, View
from contract.messages import Item, User
from contract.settings import Settings, load
from headrace.variants import with_settings
from headrace.world import World
from tests.trainer.world import DAY_MS, LENGTH, START_MS, samples

N, MIDDLE, STEP_MS = 1_200, 800, 300_000  # four days and a bit
HOUR_MS = 3_600_000


@pytest.fixture(scope="module")
def settings() -> Settings:
    """Small blocks, a full update a day."""
    return with_settings(
        load({}), {"model.dim": 8, "train.batch": 32, "full.min_samples": 50, "history.length": LENGTH}
    )


@pytest.fixture(scope="module")
def warm(settings: Settings) -> Course:
    """A course at its middle; half of the items are in no catalogue, half of the users have no profile."""
    made = samples(N, gap_ms=STEP_MS)
    items = [Item(f"i{n}", START_MS, {"tag": f"t{n % 7}"}) for n in range(30)]
    users = [User(f"u{n}", START_MS, {"age": n % 5}) for n in range(20)]
    course = Course(World(made, [s.ts_ms for s in made], items, users, {}, clicks_only=True), settings)
    course.go(MIDDLE, lambda _: None)
    assert course.full_updates == 2
    return course


def scored(warm: Course, mode: str, sync_ms: int, stale: frozenset[str]) -> tuple[np.ndarray, np.ndarray, Course]:
    """Ranks of the scored half when fresh, and by a view; and the course at its end."""
    course = warm.fork()
    course.learner.moves, course.nightly = MODES[mode].moves, MODES[mode].nightly
    course.learner.look(View("v", sync_ms, stale, int(course.passed_ms[MIDDLE]), course.learner))
    course.go(N, lambda _: None)
    return course.learner.own[MIDDLE:], course.learner.by_view["v"][MIDDLE:], course


@pytest.mark.parametrize(
    ("mode", "stale"),
    [(mode, PARTS) for mode in MODES] + [("IDs + nightly", frozenset([part])) for part in sorted(PARTS)],
)
def test_synchronised_all_the_time_is_fresh(warm: Course, mode: str, stale: frozenset[str]) -> None:
    """A server synchronised every millisecond ranks each sample as the learner itself does, in every mode."""
    fresh, viewed, _ = scored(warm, mode, 1, stale)
    assert (fresh >= 0).sum() > 50
    assert (fresh == viewed).all()


def test_nothing_stale_is_fresh(warm: Course) -> None:
    """Staleness of nothing changes nothing, however long the interval is."""
    fresh, viewed, _ = scored(warm, "IDs + nightly", DAY_MS, frozenset())
    assert (fresh == viewed).all()


@pytest.mark.parametrize("mode", MODES)
def test_never_synchronised_is_blind(warm: Course, mode: str) -> None:
    """What was never synchronised again answers the same whatever has been learned since."""
    _, viewed, _ = scored(warm, mode, NEVER_MS, PARTS)
    _, beside, _ = scored(warm, "frozen", NEVER_MS, PARTS)
    assert (viewed == beside).all()
    fresh, _, _ = scored(warm, mode, NEVER_MS, PARTS)
    assert (viewed != fresh).any()


def test_stale_until_the_border(warm: Course) -> None:
    """Synchronised every day: at first as never, after the day border otherwise."""
    _, daily, course = scored(warm, "IDs + nightly", DAY_MS, PARTS)
    _, never, _ = scored(warm, "IDs + nightly", NEVER_MS, PARTS)
    days = course.passed_ms[MIDDLE:] // DAY_MS
    # a daily server holds histories as of midnight, a never one as of the middle: compare without them
    _, daily_tables, _ = scored(warm, "IDs + nightly", DAY_MS, frozenset(("tables", "counts")))
    _, never_tables, _ = scored(warm, "IDs + nightly", NEVER_MS, frozenset(("tables", "counts")))
    assert (daily_tables == never_tables)[days == days[0]].all()
    assert (daily_tables != never_tables)[days > days[0]].any()
    assert (daily != never)[days > days[0]].any()


def test_a_sync_sees_no_sample_after_it(warm: Course) -> None:
    """What is served at a moment was learned, counted and clicked before the border that the moment belongs to."""
    _, whole, _ = scored(warm, "IDs + nightly", HOUR_MS, PARTS)
    border = int(warm.passed_ms[MIDDLE + 200]) // HOUR_MS * HOUR_MS
    inside = np.flatnonzero((warm.passed_ms >= border) & (warm.passed_ms < border + HOUR_MS))
    assert len(inside) == HOUR_MS // STEP_MS
    other, last = warm.fork(), int(inside[-1])
    other.samples = list(other.samples)
    for number in inside[:-1].tolist():  # within the hour all others click something else
        one = other.samples[number]
        if one.user_id != other.samples[last].user_id:
            other.samples[number] = msgspec.structs.replace(one, item_id="i1" if one.item_id != "i1" else "i2")
    _, changed, _ = scored(other, "IDs + nightly", HOUR_MS, PARTS)
    assert whole[last - MIDDLE] == changed[last - MIDDLE]


def test_modes_move_what_they_say(warm: Course) -> None:
    """Frozen moves nothing; IDs only the two ID tables; all online the towers too; nightly counts full updates."""
    moved = {}
    for mode in MODES:
        _, _, course = scored(warm, mode, NEVER_MS, PARTS)
        old, new = warm.learner.state.live.tensors(), course.learner.state.live.tensors()
        moved[mode] = {n for n, t in new.items() if not torch.equal(t[: len(old[n])], old[n])}, course.full_updates
    assert moved["frozen"] == (set(), 2)
    assert {name.split(".")[0] for name in moved["IDs only"][0]} == {"users", "items"}
    assert moved["IDs only"][1] == 2
    assert {"layer.user.W", "context.values", "items.values"} <= moved["all online"][0]
    assert moved["all online"][1] == 2
    assert moved["nightly only"][1] == moved["IDs + nightly"][1] == 4


def test_histories_at_a_moment() -> None:
    """A ring gives the newest clicks strictly before any moment, as if all clicks had been kept."""
    made, rings = samples(600, users=7, gap_ms=1_000), Rings()
    for begin in range(0, 600, 50):
        rings.add(made[begin : begin + 50])
    for number in range(0, 600, 7):
        user, ts_ms = made[number].user_id, made[number].ts_ms
        clicks = [s.item_id for s in made if s.user_id == user and s.ts_ms < ts_ms]
        assert rings.before(user, ts_ms, 4) == clicks[:-5:-1]
    assert rings.before("nobody", START_MS, 4) == []


def test_results_go_on_after_a_cut_line(tmp_path: Path) -> None:
    """A line that was cut is no cell and spoils none that is added later."""
    file = ResultsFile(tmp_path / "new" / "cells.jsonl", ("data", "seed"))
    assert file.cells() == {}
    file.add([{"data": "a", "seed": 1, "x": 1}, {"data": "b", "seed": 1, "x": 2}])
    whole = file.path.read_text()
    file.path.write_text(whole[:-9])
    assert list(file.cells()) == [("a", "1")]
    file.add([{"data": "b", "seed": 1, "x": 3}])
    assert {key: cell["x"] for key, cell in file.cells().items()} == {("a", "1"): 1, ("b", "1"): 3}
    assert json.loads(file.path.read_text().splitlines()[-1])["x"] == 3
