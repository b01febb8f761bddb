"""A second namespace beside the live one: replayed exactly, promoted without a failed query, dropped whole."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self, cast

import pytest

from contract import kafka as edge
from contract.errors import RefusedError
from contract.messages import Click, Exposure, Item, Sample, SampleRecord
from contract.redis import connect
from contract.settings import Settings
from headrace import backfill as running_
from headrace.backfill_compare import compare
from headrace.backfill_model import start_from
from publisher.store import read_status
from streams import backfill, course
from tests.conftest import SettingsFactory
from tests.end_to_end.stack import Stack, running
from tests.streams.evidence import (
    PARTITIONS,
    SHORT,
    START_MS,
    Event,
    by_partition,
    caught_up,
    committed,
    offline,
    records,
    same_as_offline,
    send,
    stream,
    wait,
    worker,
    written,
)
from trainer import checkpoint

Ids = dict[tuple[str, str, int, str], Sample]


def named(settings: Settings, name: str) -> Settings:
    """The same settings under another namespace."""
    return settings.model_copy(update={"namespace": name})


def samples(settings: Settings) -> Ids:
    """Samples by id; fails when one is there twice."""
    found: Ids = {}
    for _, record in written(settings, "samples", SampleRecord):
        if isinstance(record, Sample):
            key = (record.user_id, record.request_id, record.exposure_ts_ms, record.item_id)
            assert key not in found
            found[key] = record
    return found


def delayed(start_ms: int) -> Iterator[tuple[str, Event]]:
    """Clicks that come, and whose exposures come only once the clicks were given up: orphans to the live run alone."""
    for n in range(20):
        yield "clicks", Click(f"u{n}", "i1", start_ms + n, request_id=f"late{n}")


@pytest.fixture(scope="module")
def live(module_settings: SettingsFactory) -> Settings:
    """A live run that saw silences: some of its verdicts hang on idle advances."""
    made = module_settings(**SHORT)
    edge.create_topics(made)
    with worker(made):
        newest_ms = START_MS
        for part in range(3):
            send(made, stream(250, seed=part, start_ms=newest_ms + 1_000))
            newest_ms += 250_000
            send(made, delayed(newest_ms))
            wait(lambda: caught_up(made))
            time.sleep(1.2)  # both inputs are silent for twice the time-out: windows are held open no longer
            late = (Exposure(f"late{n}", f"u{n}", newest_ms + n, ["i1"]) for n in range(20))
            send(made, (("exposures", one) for one in late))
            wait(lambda: caught_up(made))
    return made


def replay(settings: Settings, plan: course.Plan) -> Settings:
    """Let a worker of the new namespace come to its stops; its settings."""
    news = named(settings, plan.namespace)
    edge.create_topics(news)
    course.save(news.files, plan)
    backfill.seed(news, plan)
    with worker(news):
        wait(lambda: _stopped(news, plan))
    return news


def _stopped(settings: Settings, plan: course.Plan) -> bool:
    at = committed(settings)
    return all(at[s, p] == plan.stops[s][p] for s in ("exposures", "clicks") for p in range(PARTITIONS))


def planned(settings: Settings, name: str, **more: Any) -> course.Plan:
    """A plan with everything by default."""
    asked: dict[str, Any] = {
        "since_ms": None,
        "until_ms": None,
        "follow": False,
        "from_version": None,
        "repeat_advances": True,
    }
    return backfill.make_plan(settings, name, **(asked | more))


def test_from_the_beginning_everything_is_the_same(live: Settings) -> None:
    """Samples, ids and contents, are those of the live run, also where an idle advance decided; nothing beyond is read.

    Without the recorded advances they are not: the clicks whose exposures came after the silence would match.
    """
    plan = planned(live, "again")
    send(live, stream(50, seed=9, start_ms=START_MS + 900_000))  # after the plan: beyond its stops
    again = replay(live, plan)
    assert sum(map(len, plan.advances)) > 0
    assert samples(again) == samples(live)
    assert len(samples(again)) > 50
    clocked = replay(live, planned(live, "clocked", repeat_advances=False, until_ms=None))
    assert len(samples(clocked)) > len(samples(live))
    with worker(live):
        wait(lambda: caught_up(live))
    assert same_as_offline(live)["samples"] > len(samples(again))


def undecided_before(settings: Settings, plan: course.Plan) -> set[tuple[int, int]]:
    """(partition, offset) of each click before a plan's starts that the offline join of what lies there leaves open."""
    logs = {source: by_partition(records(settings, source)) for source in ("exposures", "clicks")}
    before = {
        source: {p: [m for m in some if cast("int", m.offset()) < plan.starts[source][p]] for p, some in of.items()}
        for source, of in logs.items()
    }
    found: set[tuple[int, int]] = set()
    for p in range(PARTITIONS):
        x, c = plan.starts["exposures"][p], plan.starts["clicks"][p]
        advances = [a for a in plan.advances[p] if a.exposures_position <= x and a.clicks_position <= c]
        joined = offline(settings, before, p, advances)
        found |= {(p, offset) for offset in (*joined.undecided, *joined.waiting)}
    return found


def test_from_a_later_time_the_ids_are_the_same(live: Settings) -> None:
    """From T on: every sample whose verdict fell since T, though both logs are read from before T in silence.

    Some of them are of events that all arrived before T: clicks without request_id wait for event time. The command
    counts those, too. Nothing is told twice: what was decided before T is not written again.
    """
    held_ms = START_MS + 1_190_000
    for n in range(20):
        send(live, iter([("exposures", Exposure(f"held{n}", f"u{n}", held_ms, ["i1"]))]))
        send(live, iter([("clicks", Click(f"u{n}", "i1", held_ms + n))]))
    time.sleep(0.01)
    since_ms = time.time_ns() // 1_000_000
    send(live, stream(250, seed=7, start_ms=START_MS + 1_200_000))
    with worker(live):
        wait(lambda: caught_up(live))
    plan = planned(live, "later", since_ms=since_ms)
    assert all(sum(plan.starts[s]) > sum(plan.needed[s]) for s in ("exposures", "clicks"))
    assert planned(live, "earlier", until_ms=since_ms).stops == plan.starts
    news = replay(live, plan)
    later, before = samples(news), samples(live)
    homes = {key: edge.partition_of(key[0].encode(), PARTITIONS) for key in before}
    waited = undecided_before(live, plan)
    since_t = {
        key
        for key, one in before.items()
        if one.exposure_offset >= plan.starts["exposures"][homes[key]]
        or one.click_offset >= plan.starts["clicks"][homes[key]]
    }
    expected = since_t | {key for key, one in before.items() if (homes[key], one.click_offset) in waited}
    assert 50 < len(since_t) < len(expected) < len(before)
    assert expected == set(later)
    found = compare(live, news, plan)
    assert (found.same + found.other_content, found.missing, found.extra) == (len(expected), 0, 0)


def test_a_worker_that_dies_goes_on_along_the_course(live: Settings) -> None:
    """Stopped again and again between two recorded advances, a replay still gives the same samples, each once."""
    plan = planned(live, "torn")
    small = live.streams.model_copy(update={"commit_interval_ms": 10, "batch_records": 20})
    news = live.model_copy(update={"namespace": "torn", "streams": small})
    edge.create_topics(news)
    course.save(news.files, plan)
    for _ in range(4):
        with worker(news):
            time.sleep(0.3)
    with worker(news):
        wait(lambda: _stopped(news, plan))
    assert samples(news) == samples(live)


def test_a_replay_that_stopped_may_follow_later_and_is_not_taken_for_another(settings: SettingsFactory) -> None:
    """The same request goes on; --follow takes the stops away; another start, or a namespace that is live: refused."""
    live = settings(**SHORT)
    edge.create_topics(live)
    send(live, stream(50))
    news = named(live, "again")
    plan = running_.settled(news, planned(live, "again"))
    course.save(news.files, plan)
    send(live, stream(20, seed=2))
    assert running_.settled(news, planned(live, "again")) == plan
    following = running_.settled(news, planned(live, "again", follow=True))
    assert (following.stops, following.starts, plan.stops == plan.ends) == ({}, plan.starts, True)
    with pytest.raises(RefusedError, match="since_ms"):
        running_.settled(news, planned(live, "again", since_ms=1))
    with pytest.raises(RefusedError, match="apply events twice"):
        running_.settled(live, planned(live, "live"))


def test_the_live_namespace_goes_first() -> None:
    """A replay waits when every one of several looks saw more live lag, and goes on when none did."""
    assert running_.grows([1, 2, 3, 9])
    assert not running_.grows([1, 2, 2, 9])
    assert not running_.grows([7, 8, 9])
    assert running_.falls([9, 9, 3, 3])
    assert not running_.falls([9, 3, 3, 4])


@pytest.fixture
def stack(settings: SettingsFactory, tmp_path: Path) -> Iterator[Stack]:
    """All live roles, with some samples learned and served."""
    small = {"kafka.partitions": PARTITIONS, "train.batch": 32, "join.idle_timeout_ms": 2_000}
    live = settings(**SHORT, **small)
    logs = tmp_path / "logs"
    logs.mkdir()
    with running(live, logs) as made:
        made.send([Item(f"i{n}", START_MS) for n in range(60)])
        send(live, stream(600))
        made.until("a model is served", lambda: made.learned() > 100 and made.get("/healthz")["ready"], 90)
        yield made


class Load:
    """Queries without a pause while the block runs; what they answered, and what failed."""

    def __init__(self, stack: Stack) -> None:
        self.failed: list[str] = []
        self.answers: list[tuple[str, int]] = []
        self._stack, self._over = stack, threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(n,)) for n in range(2)]

    def _ask(self, n: int) -> None:
        while not self._over.is_set():
            n += 1
            begun = time.monotonic()
            try:
                answer = self._stack.get(f"/recall/u{n % 40}?k=5")
                self.answers.append((answer["namespace"], len(answer["candidates"])))
            except OSError as error:
                self.failed.append(repr(error))
            if time.monotonic() - begun > 1:
                self.failed.append(f"{time.monotonic() - begun:.1f} s")

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


def traces(settings: Settings) -> list[str]:
    """Topics, groups, Redis keys and files that carry a namespace's name."""
    client = edge.admin(settings.kafka)
    mine = f"{settings.names.prefix}{settings.namespace}."
    groups = [g.group_id for g in client.list_consumer_groups().result(10).valid]
    keys = [key.decode() for key in connect(settings.redis).scan_iter(match=f"{settings.names.key()}:*")]
    files = [str(settings.files)] if settings.files.exists() else []
    return [name for name in (*edge.partition_counts(client), *groups) if name.startswith(mine)] + keys + files


def refused(stack: Stack, *arguments: str) -> str:
    """One line of a command that is refused."""
    done = stack.command(*arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    return done.stderr


@pytest.mark.timeout(300)
def test_replay_promote_rollback_drop(stack: Stack) -> None:
    """As a user runs it: a dry run makes nothing; a replay gives the same samples, learned and whole, beside live ones.

    It is promoted, and gone back from, without a failed query; while it is served it is not dropped, then nothing of
    it is left. The live groups are not rewound.
    """
    live = stack.settings
    again = named(live, "again")
    dry = stack.answer("replay", "--as", "again")
    assert sum(span["events"] for span in dry["reads"]) == sum(dry["estimate"]["events"].values()) > 600
    assert traces(again) == []
    for arguments in (("--since", "0"), ("--as", "live", "--execute"), ("--since", "0", "--as", "live", "--execute")):
        assert "headrace replay --as NAME" in refused(stack, "replay", *arguments)
    done = stack.answer("replay", "--as", "again", "--execute")
    assert (done["samples"]["missing"], done["samples"]["extra"], done["samples"]["other_content"]) == (0, 0, 0)
    assert done["samples"]["same"] == len(samples(live)) == len(samples(again)) > 100
    assert read_status(connect(live.redis), live.names)["namespace"] == "live"
    assert "no whole version" in refused(stack, "promote", "nowhere")
    with Load(stack) as load:
        promoted = stack.answer("promote", "again")
        assert (promoted["namespace"], promoted["answering"]) == ("again", True)
        assert "is served" in refused(stack, "drop", "again")
        back = stack.answer("rollback")
        assert (back["namespace"], back["answering"]) == ("live", True)
        forth = stack.answer("rollback")
        assert (forth["namespace"], forth["version"]) == ("again", promoted["version"])
        stack.answer("promote", "live")
    assert load.failed == []
    assert {name for name, _ in load.answers} == {"live", "again"}
    assert {count for _, count in load.answers} == {5}
    start_from(named(live, "warm"), "again", promoted["version"])  # a third one would learn on from it
    loaded = checkpoint.load(named(live, "warm").files / "checkpoints")
    assert loaded is not None
    assert (loaded[0].version, loaded[0].samples, loaded[0].offsets) == (promoted["version"], 0, {})
    with pytest.raises(RefusedError, match="no checkpoint of version 99"):
        start_from(named(live, "cold"), "again", 99)
    assert traces(again)
    stack.answer("drop", "again")
    assert traces(again) == []
    assert traces(live)
