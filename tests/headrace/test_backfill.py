"""A second namespace beside the live one: replayed exactly, promoted without a failed query, dropped whole."""

import time
from collections.abc import Iterator
from typing import Any

from contract import kafka as edge
from contract.messages import Click, Exposure, Sample, SampleRecord
from contract.settings import Settings
from streams import backfill, course
from tests.conftest import SettingsFactory
from tests.streams.evidence import (
    PARTITIONS,
    SHORT,
    START_MS,
    Event,
    caught_up,
    committed,
    same_as_offline,
    send,
    stream,
    wait,
    worker,
    written,
)

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


def live_run(settings: Settings) -> None:
    """A live run that sees silences: some of its verdicts hang on idle advances."""
    edge.create_topics(settings)
    with worker(settings):
        newest_ms = START_MS
        for part in range(3):
            send(settings, stream(250, seed=part, start_ms=newest_ms + 1_000))
            newest_ms += 250_000
            send(settings, delayed(newest_ms))
            wait(lambda: caught_up(settings))
            time.sleep(1.2)  # both inputs are silent for twice the time-out: windows are held open no longer
            late = (Exposure(f"late{n}", f"u{n}", newest_ms + n, ["i1"]) for n in range(20))
            send(settings, (("exposures", one) for one in late))
            wait(lambda: caught_up(settings))


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


def test_from_the_beginning_everything_is_the_same(settings: SettingsFactory) -> None:
    """Samples, ids and contents, are those of the live run, also where an idle advance decided; nothing beyond is read.

    Without the recorded advances they are not: the clicks whose exposures came after the silence would match.
    """
    live = settings(**SHORT)
    live_run(live)
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
