"""The join's corner cases, one drawn timeline each. window 10, lateness 4, max_skew 2, L 1; x exposures, c clicks.

Every case is also compared with both offline joins, in other interleavings, and re-read after each commit.
"""

import dataclasses

import pytest

from contract.messages import Click, Exposure
from streams.join import Join
from tests.streams.drive import CLICKS, EXPOSURES, Worker, World, feed, records, run
from tests.streams.laws import check, check_rereads
from tests.streams.worlds import RULES

HOUR = 3_600_000
YEAR = 365 * 24 * HOUR


def x(ts: int, request: str = "p", user: str = "u", items: str = "ab") -> Exposure:
    return Exposure(request, user, ts, list(items))


def c(ts: int, request: str | None = "p", item: str = "a", action: str = "click", user: str = "u") -> Click:
    return Click(user, item, ts, action, request)  # type: ignore[arg-type]  # a str is shorter to write


def joined(exposures: list[Exposure], clicks: list[Click], plan: list[str]) -> Worker:
    """Run one timeline with all its laws."""
    world = World(records(EXPOSURES, exposures), records(CLICKS, clicks))
    check_rereads(RULES, world, plan)
    return check(RULES, world, plan)


def samples(worker: Worker) -> list[tuple[int, int]]:
    """(exposure offset, click offset) of each sample."""
    return [(s.exposure_offset, s.click_offset) for s in worker.topics.samples]


def scores(worker: Worker) -> dict[int, list[int]]:
    """Scores of each outcome, by exposure offset."""
    return {o.exposure_offset: [i.score for i in o.items] for o in worker.topics.outcomes}


def reasons(worker: Worker) -> dict[tuple[str, int], str]:
    """Reason of each dead letter."""
    return {(d.source, d.offset): d.reason for d in worker.topics.dead_letters}


def test_equal_ts_at_the_watermark_is_not_late() -> None:
    """Law: late is ts < W, strictly; an exposure closes at W > ts + window, strictly.

    x  10----------------24      W_x = 20 = 10 + window: x0 stays open
    c      ..........10  24      the click at exactly W_c - 0 = 20 - .. is still taken
    """
    worker = joined([x(10), x(24, "q")], [c(24, "q"), c(20)], [])
    assert reasons(worker) == {}
    assert samples(worker) == [(1, 0), (0, 1)]
    assert scores(worker) == {}  # W = 20 is not over 20
    after = joined([x(10), x(25, "q")], [c(25, "q"), c(20)], [])
    assert reasons(after) == {("clicks", 1): "late"}
    assert scores(after) == {0: [0, 0]}


def test_a_click_at_the_last_moment_then_a_crash() -> None:
    """Law: a click that arrives at window + lateness - 1 counts once, whatever the crash after it.

    x  10                 23
    c      (clock at 23)  23  20     c1 is 3 behind its partition: not late; x0 closes only at W > 20
    """
    plan = ["x3", "c", "commit", "c", "commit", "crash", "commit", "crash"]
    worker = joined([x(10), x(23, "q"), x(40, "r")], [c(23, "q"), c(20), c(40, "r")], plan)
    assert samples(worker) == [(1, 0), (0, 1), (2, 2)]
    assert scores(worker)[0] == [1, 0]


def test_an_id_less_click_before_one_with_an_id() -> None:
    """Law: the sample has the lowest-offset click of the exposure's item, even if that one had to wait for W.

    x  10 . . . . . . . . 17      W_x = 13 > 12 decides c0 only now
    c      c0 12 (no id)   c1 13 (id p): matched at once, waits behind c0
    """
    worker = joined([x(10), x(17, "q")], [c(12, None, action="like"), c(13)], ["x", "c", "c", "commit", "x"])
    assert [(s.click_offset, s.action) for s in worker.topics.samples] == [(0, "like")]
    waiting = run(RULES, World(records(EXPOSURES, [x(10)]), records(CLICKS, [c(12, None), c(13)])), [])
    assert waiting.topics.samples == []


def test_an_id_less_click_takes_the_newest_showing() -> None:
    """Law: without a request_id, of the exposures not after the click the largest (ts, offset) that shows the item.

    x  10(ab) 12(b) 12(a) 14(a)  30
    c            13 a
    """
    worker = joined([x(10), x(12, "q", items="b"), x(12, "r", items="a"), x(14, "s"), x(30, "t")], [c(13, None)], [])
    assert samples(worker) == [(2, 0)]


def test_clicks_empty() -> None:
    """Law: an empty click log holds nobody up once it is idle: exposures close by the advance's w = W_x.

    x  10  11   30
    c  (nothing, idle)     w = 26 > 21
    """
    worker = joined([x(10), x(11, "q"), x(30, "r")], [], ["x3", "ic", "commit"])
    assert scores(worker) == {0: [0, 0], 1: [0, 0]}
    assert run(RULES, World(records(EXPOSURES, [x(10), x(30, "r")]), []), ["x", "x"]).topics.outcomes == []


def test_both_idle_then_traffic() -> None:
    """Law: with both idle, w = the larger M + 1: clicks without id are decided, younger windows stay open; an advance
    never makes late, and a click on what it closed is `closed_while_idle`.

    x  10 . . . . . . . . . . . . 21                   x0 10 + 10 < 22: closed
    c          12 (no id)     | w = 22 |   15 (p): x0 is closed   21 (q): a sample
    """  # noqa: D205
    worker = joined([x(10), x(21, "q")], [c(12, None), c(15), c(21, "q")], ["x", "x", "c", "ixc", "commit", "crash"])
    assert samples(worker) == [(0, 0), (1, 2)]
    assert reasons(worker) == {("clicks", 1): "closed_while_idle"}
    assert scores(worker) == {0: [1, 0]}


def test_the_same_request_id_after_the_window() -> None:
    """Law: a request_id used again is another exposure; the lowest offset that fits takes the click.

    x  p 10 . . . . . p 20 . . . . . p 35
    c            19 -> x0     21 -> x1 (11 after x0)   34 -> x2 (14 after x1; 1 before x2)
    """
    worker = joined([x(10), x(20), x(35)], [c(19), c(21), c(34)], [])
    assert samples(worker) == [(0, 0), (1, 1), (2, 2)]


def test_a_repeated_exposure_is_dropped() -> None:
    """Law: same user, request and ts: dropped and counted; a new ts is a new exposure."""
    worker = joined([x(10), x(10, items="b"), x(11), x(10, user="v")], [], [])
    assert worker.join.totals["exposure_repeats"] == 1
    assert worker.topics.popularity["a"].exposures == 3


def test_an_early_click_and_an_orphan() -> None:
    """Law: a click up to lateness before its exposure waits for it, an orphan until W > ts + lateness.

    c  7 (p)   5 (q)
    x            10 (p) takes c0 (3 early), q never comes:  c1 is an orphan once W = min(26, 26) > 9
    """
    worker = joined([x(10), x(30, "r")], [c(7), c(5, "q"), c(30, "r")], ["c", "c", "x", "commit", "crash"])
    assert samples(worker)[0] == (0, 0)
    assert reasons(worker) == {("clicks", 1): "orphan"}


def test_an_hour_fast_and_an_hour_slow() -> None:
    """Law: ahead of arrival by more than max_skew is refused before it can move time; behind W_x is late.

    arrival  10   11         12          13
    x        10   11 + hour  12 - hour   13      ahead | late | the rest as if nothing had been
    """
    log = records(EXPOSURES, [x(10), x(11 + HOUR, "q"), x(12 - HOUR, "r"), x(13, "s")])
    log = [record._replace(arrival_ms=10 + record.offset) for record in log]
    worker = check(RULES, World(log, records(CLICKS, [c(11), c(13, "s")])), ["x3", "c", "commit", "crash"])
    assert reasons(worker) == {("exposures", 1): "ahead", ("exposures", 2): "late"}
    assert worker.join.progress_ms(EXPOSURES) == 13
    assert samples(worker) == [(0, 0), (3, 1)]


def test_a_jump_of_years_on_one_partition_only() -> None:
    """Law: years without events are a normal jump: windows before it close, all else goes on; another partition keeps
    its own time.

    p0  x 10  c 12 | x 10 + 4 years  c 12 + 4 years          p1  x 10 .. c 12
    """  # noqa: D205
    jump = 4 * YEAR
    worker = joined([x(10), x(10 + jump, "q")], [c(12), c(12 + jump, "q")], ["x", "c", "commit", "x", "c"])
    assert samples(worker) == [(0, 0), (1, 1)]
    assert scores(worker) == {0: [1, 0]}
    other = Join(RULES)
    for source, log in ((EXPOSURES, records(EXPOSURES, [x(10)])), (CLICKS, records(CLICKS, [c(12)]))):
        feed(other, source, log[0])
    assert len(other.take().samples) == 1
    assert other.progress_ms(CLICKS) == 12


def test_a_forgotten_exposure_stays_forgotten_in_a_reread() -> None:
    """Law: an advance does not replace the one before while an exposure that it forgot is kept for a younger one.

    x  p 11      p 22       33
    c                   | w 29: x0 forgotten |  c0 18 -> x1 (x0 would fit, if known)  | w 29 again |  crash
    """
    exposures = [x(11, user="v"), x(22, user="v", items="b"), x(33), x(50, "z")]
    clicks = [c(18, item="b", user="v"), c(50, "z")]
    worker = joined(exposures, clicks, ["x3", "ic", "c", "ic", "commit", "crash"])
    assert scores(worker)[1] == [1]


def test_a_forgotten_exposure_is_reread_for_a_younger_one() -> None:
    """Law: a forgotten exposure stays needed while an open one of its request could take over its clicks in a re-read.

    x  p 11      p 22       33
    c      c0 22 -> x1   c1 18 -> x0    | w 29: x0 forgotten |  crash: c0 is re-read, and c1 after it
    """
    exposures = [x(11, user="v"), x(22, user="v"), x(33), x(50, "z")]
    clicks = [c(22, user="v"), c(18, item="b", user="v"), c(50, "z")]
    worker = joined(exposures, clicks, ["x3", "c", "c", "ic", "commit", "crash"])
    assert (scores(worker)[0], scores(worker)[1]) == ([0, 1], [1, 0])


def test_gaps_and_refused_records_move_the_position() -> None:
    """Law: gaps and records refused by the edge move the position; nothing else changes."""
    join = Join(dataclasses.replace(RULES))
    join.refuse(EXPOSURES, 3, "broken", "text", b"raw")
    join.exposure(7, 10, x(10), None)
    join.end_of_partition(EXPOSURES, 9)
    join.end_of_partition(EXPOSURES, 5)
    batch, commit = join.take(), join.commit()
    assert [d.reason for d in batch.dead_letters] == ["broken"]
    assert (commit.exposures_position, commit.clicks_position) == (9, 0)
    assert join.totals["exposures"] == 2


@pytest.mark.parametrize("clicks_only", [False, True])
def test_the_marker_says_what_changed(clicks_only: bool) -> None:
    """Law: a batch holds a marker when progress, the idle flag or the advances changed, else none."""
    join = Join(dataclasses.replace(RULES, clicks_only=clicks_only))
    assert join.take().marker is None
    join.click(0, 12, c(12), None)
    marker = join.take().marker
    assert marker is not None
    assert (marker.progress_ms, marker.idle, marker.arrival_ms) == (12, False, 12)
    assert join.take().marker is None
    made = join.idle(exposures=not clicks_only, clicks=True)
    marker = join.take().marker
    assert made is not clicks_only
    assert marker is not None
    assert marker.idle
    assert len(marker.advances) == (0 if clicks_only else 1)
    assert not join.idle(exposures=not clicks_only, clicks=True)
    assert join.take().marker is None
