"""Lag is judged by rules over the last looks, as Burrow judges it; no number of records is too many by itself."""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.request import urlopen

import pytest
from confluent_kafka import TopicPartition

from contract import kafka as edge
from contract.settings import Settings, environment_of
from headrace import offsets
from streams.lag import WINDOW, Look, Row, State, Watch, brief, state
from tests.conftest import SettingsFactory
from tests.streams.evidence import SHORT, caught_up, send, stream, wait

HEADRACE = [sys.executable, "-m", "headrace"]


def looks(committed: Sequence[int | None], lags: Sequence[int], group: Sequence[int] | None = None) -> list[Look]:
    """Looks a second apart; the group's sum follows the partition's own offset unless it is given."""
    sums = group or [c or 0 for c in committed]
    return [Look(n * 1_000, c, lag, s) for n, (c, lag, s) in enumerate(zip(committed, lags, sums, strict=True))]


@pytest.mark.parametrize(
    ("committed", "lags", "group", "wanted"),
    [
        # caught up, or caught up once within the window: fine, however much came since
        ([5, 5, 5, 5], [0, 0, 0, 0], None, "OK"),
        ([5, 5, 5, 5], [0, 900, 900, 900], None, "OK"),
        ([5, 6, 7, 8], [9, 9, 0, 9], None, "OK"),
        # a large lag that shrinks is no fault; one look at which it grew neither
        ([10, 20, 30, 40], [900_000, 900_010, 800_000, 700_000], None, "OK"),
        # moves on and never gets nearer: steady, or growing
        ([10, 20, 30, 40], [7, 7, 7, 7], None, "WARN"),
        ([10, 20, 30, 40], [1, 2, 3, 9], None, "WARN"),
        ([10, 10, 10, 11], [1, 2, 3, 9], None, "WARN"),
        # stands still, and so does its whole group: whatever the lag does
        ([10, 10, 10, 10], [1, 2, 3, 4], None, "STOP"),
        ([10, 10, 10, 10], [3, 3, 3, 3], None, "STOP"),
        ([10, 10, 10, 10], [9, 8, 7, 6], None, "STOP"),  # retention eats the log below it
        ([None, None, None, None], [3, 3, 3, 3], None, "STOP"),  # never committed
        # stands still, but the group commits elsewhere
        ([10, 10, 10, 10], [3, 3, 3, 3], [50, 50, 51, 51], "STALL"),
        ([None, None, None, None], [3, 3, 3, 3], [50, 50, 51, 51], "STALL"),
        # went back, even from lag 0 and even if it has caught up since; or its offset is gone
        ([10, 20, 15, 30], [9, 9, 9, 9], None, "REWIND"),
        ([10, 10, 3, 3], [0, 0, 7, 7], None, "REWIND"),
        ([10, 3, 9, 10], [0, 7, 1, 0], None, "REWIND"),
        ([10, 10, None, None], [0, 0, 10, 10], None, "REWIND"),
        # too few looks to say more than that it went back
        ([10, 10, 10], [3, 3, 3], None, "OK"),
        ([10, 9], [3, 4], None, "REWIND"),
        ([], [], None, "OK"),
    ],
)
def test_states(committed: list[int | None], lags: list[int], group: list[int] | None, wanted: str) -> None:
    """Every rule, their order, and their borders, over a window of four looks."""
    assert state(looks(committed, lags, group), window=4).value == wanted


@pytest.mark.parametrize(
    ("committed", "lags", "group", "behind_s", "wanted"),
    [
        ([5, 5], [9, 9], None, 30, "STOP"),  # unread for twice the longest pause, and nothing moves
        ([None, None], [9, 9], None, 30, "STOP"),
        ([5, 5], [9, 9], [50, 51], 30, "STALL"),
        ([5, 5], [9, 9], None, 14, "OK"),  # it may be between two commits
        ([5, 6], [9, 9], None, 30, "OK"),  # it gets on
        ([5, 5, 5], [9, 0, 9], None, 30, "OK"),
        ([5, 4], [9, 10], None, 1, "REWIND"),
        ([5], [9], None, 30, "OK"),  # one look tells nothing
    ],
)
def test_states_of_what_nobody_watched(
    committed: list[int | None], lags: list[int], group: list[int] | None, behind_s: float, wanted: str
) -> None:
    """Few looks, and how long the first unread record has lain there; a role may pause for 10 s between two commits."""
    assert brief(looks(committed, lags, group), behind_s, longest_pause_ms=10_000).value == wanted


def test_a_watch_keeps_the_last_looks_and_knows_when_another_one_tells_nothing() -> None:
    """Lag that shrinks needs two looks, none needs one, a dead group a whole window; a group is one over topics."""

    def rows(first: tuple[int, int], second: tuple[int, int]) -> list[Row]:
        return [Row("g", t, 0, c, c + lag, lag, 0.0) for t, (c, lag) in (("a", first), ("b", second))]

    watch = Watch()
    watch.add(rows((5, 9), (7, 0)), 0)
    assert watch.undecided()  # `a` lags
    watch.add(rows((6, 8), (7, 0)), 1)
    assert not watch.undecided()
    dead = Watch()
    for n in range(WINDOW):
        assert n == 0 or dead.undecided()
        told = dead.add(rows((5, 9), (7 + n, 3)), n)
    assert not dead.undecided()
    assert [row.state for row in told] == [State.STALL, State.WARN]
    told = dead.add(rows((4, 10), (8 + n, 0)), n)
    assert [row.state for row in told] == [State.REWIND, State.OK]


def run_lag(settings: Settings) -> tuple[int, list[dict[str, str]]]:
    """`headrace lag` as a user runs it: exit code and rows of the streams group."""
    done = subprocess.run(
        [*HEADRACE, "lag", "--json"],
        capture_output=True,
        text=True,
        check=False,
        env={**environment_of(settings), "PATH": "", "PYTHONPATH": str(Path.cwd())},
        timeout=60,
    )
    assert done.stdout, done.stderr
    return done.returncode, [r for r in json.loads(done.stdout) if r["group"] == settings.names.group("streams")]


def body(url: str) -> str:
    """What a page of the role says."""
    with urlopen(url, timeout=5) as answer:  # noqa: S310  (its own page, on the loopback interface)
        return str(answer.read().decode())


def commit(settings: Settings, offset: int) -> None:
    """Commit exposures-0 for streams, as a tool would."""
    reader = edge.consumer(settings.kafka, settings.names.group("streams"))
    reader.commit(offsets=[TopicPartition(settings.names.topic("exposures"), 0, offset)], asynchronous=False)
    reader.close()


def test_lag_fails_on_a_dead_role_and_not_on_a_running_one(settings: SettingsFactory, tmp_path: Path) -> None:
    """Streams runs: OK and exit 0, the same at /lag and /metrics. Killed, with events unread: STOP and exit 1, soon.

    Its offset moved back meanwhile: REWIND, as soon as two looks have seen it.
    """
    mine = settings(**SHORT, **{"train.checkpoint_interval_ms": 100})
    edge.create_topics(mine)
    send(mine, stream(300))
    code = "from contract import settings; from streams.app import run; run(settings.load(), 0)"
    environment = {**environment_of(mine), "PYTHONPATH": str(Path.cwd())}
    role = subprocess.Popen([sys.executable, "-c", code], env=environment, cwd=tmp_path)
    try:
        wait(lambda: caught_up(mine))
        wait(lambda: bool(offsets.watched(mine)))
        rows = [row for row in offsets.judged(mine) if row.group == mine.names.group("streams")]
        assert {row.state for row in rows} == {State.OK}
        page = f"http://127.0.0.1:{mine.streams.port}"
        at = f'group="{mine.names.group("streams")}",partition="0",topic="{mine.names.topic("clicks")}"'
        wait(lambda: f"kafka_consumergroup_lag{{{at}}} 0.0" in body(f"{page}/metrics"))
        told = json.loads(body(f"{page}/lag"))
        mine_only = [row for row in told if row["group"] == mine.names.group("streams")]
        assert {(row["lag"], row["state"]) for row in mine_only} == {(0, "OK")}
    finally:
        role.kill()
        role.wait()
    send(mine, stream(300, seed=2))
    wait(lambda: run_lag(mine)[0] == 1)  # once the events have lain there for longer than a start takes
    wait(lambda: {row["state"] for row in run_lag(mine)[1] if row["lag"]} == {"STOP"})  # those of every partition
    begun = time.monotonic()
    rows = [row for row in offsets.judged(mine) if row.group == mine.names.group("streams")]
    assert time.monotonic() - begun < 3
    assert {row.state for row in rows if row.lag} == {State.STOP}
    _, found = run_lag(mine)
    assert {row["state"] for row in found if row["lag"]} == {"STOP"}
    watch = Watch()
    watch.add(offsets.lag(mine), 0)
    commit(mine, 1)
    states = {(r.topic, r.partition): r.state for r in watch.add(offsets.lag(mine), 1)}
    assert [at for at, one in states.items() if one is State.REWIND] == [(mine.names.topic("exposures"), 0)]
