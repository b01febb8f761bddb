"""A known stream, workers to read it, and what they wrote held against the offline join of the raw logs."""

import contextlib
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

import msgspec
from confluent_kafka import Message, TopicPartition

from contract import kafka
from contract.messages import (
    ACTIONS,
    Advance,
    Click,
    Exposure,
    History,
    Marker,
    Outcome,
    Popularity,
    Sample,
    SampleRecord,
    decoder,
    encode_json,
)
from contract.settings import Settings, environment_of
from headrace.offline_join import Joined, join_partition
from headrace.offline_times import Record, Rules
from streams.door import Door, Homes, Refused
from streams.processor import Processor, rules_of

PARTITIONS = 4
START_MS = 1_700_000_000_000
T = TypeVar("T")
Event = Exposure | Click
WORKER = """
import sys, signal, threading
from contract import log, settings
from streams.processor import Processor
made, ending = settings.load(), threading.Event()
signal.signal(signal.SIGTERM, lambda *_: ending.set())
log.set_up("streams", "info")
Processor(made, 4, int(sys.argv[1]), ending).run()
"""
JUMPING = """
import time
real, real_ns = time.time, time.time_ns
def jump_s():
    return 3_600 * (int(time.monotonic() * 4) % 3 - 1)
time.time, time.time_ns = lambda: real() + jump_s(), lambda: real_ns() + jump_s() * 1_000_000_000
"""
SHORT = {"join.window_ms": 60_000, "join.lateness_ms": 6_000, "join.max_skew_ms": 3_000, "history.length": 5}


def stream(count: int, seed: int = 1, start_ms: int = START_MS) -> Iterator[tuple[str, Event]]:
    """Exposures and clicks in order of arrival: matched, early, late, repeated, id-less and orphaned ones."""
    draw = random.Random(seed)
    now_ms, recent = start_ms, list[Exposure]()
    for n in range(count):
        now_ms += draw.randrange(1_000)
        late_ms = draw.choice((0, 0, 0, 500, 3_000, 9_000))
        if draw.random() < 0.5 or not recent:
            items = [f"i{draw.randrange(60)}" for _ in range(draw.randrange(1, 6))]
            event = Exposure(f"r{n}", f"u{draw.randrange(40)}", now_ms - late_ms, items, {"page": draw.choice("ab")})
            recent = [*recent[-30:], event]
            yield "exposures", event
            if draw.random() < 0.1:
                yield "exposures", event
        else:
            shown = draw.choice(recent)
            known = draw.random()
            request = shown.request_id if known < 0.7 else None if known < 0.9 else f"r{n + 1}"
            click = Click(
                shown.user_id, draw.choice(shown.items), now_ms - late_ms, draw.choice(ACTIONS), request_id=request
            )
            for _ in range(draw.choice((1, 1, 1, 2))):
                yield "clicks", click


def send(settings: Settings, events: Iterator[tuple[str, Event]]) -> int:
    """Send events to their raw topics; give back how many."""
    producer, sent = kafka.producer(settings.kafka), 0
    for topic, event in events:
        kafka.produce(producer, settings.names.topic(topic), encode_json(event), event.user_id.encode())
        sent += 1
    producer.flush(30)
    return sent


@contextlib.contextmanager
def worker(settings: Settings, slot: int = 0) -> Iterator[Processor]:
    """Run the loop in a thread; an error of it is raised at the end."""
    ending, failed = threading.Event(), list[BaseException]()
    processor = Processor(settings, PARTITIONS, slot, ending)

    def run() -> None:
        try:
            processor.run()
        except BaseException as error:  # noqa: BLE001  (raised below)
            failed.append(error)

    thread = threading.Thread(target=run, name=f"worker-{slot}")
    thread.start()
    try:
        yield processor
    finally:
        ending.set()
        thread.join(30)
    if failed:
        raise failed[0]


@contextlib.contextmanager
def process(
    settings: Settings, slot: int = 0, crash_point: str = "", clock: str = ""
) -> Iterator[subprocess.Popen[bytes]]:
    """Run the loop as a process of its own, after `clock` has done something to its clock; it is gone at the end."""
    environment = {**environment_of(settings), "CRASH_POINT": crash_point, "PATH": ""}
    running = subprocess.Popen([sys.executable, "-c", clock + WORKER, str(slot)], env=environment)
    try:
        yield running
    finally:
        running.kill()
        running.wait()


def committed(
    settings: Settings, topics: tuple[str, ...] = ("exposures", "clicks"), role: str = "streams"
) -> dict[tuple[str, int], int]:
    """Committed offset of a group by logical topic and partition; -1001 where there is none."""
    names = settings.names
    asked = [TopicPartition(names.topic(t), p) for t in topics for p in range(PARTITIONS)]
    by_name = {names.topic(t): t for t in topics}
    found = kafka.committed(settings.kafka, names.group(role), asked)
    return {(by_name[at.topic], at.partition): at.offset for at in found}


def caught_up(settings: Settings, topics: tuple[str, ...] = ("exposures", "clicks"), role: str = "streams") -> bool:
    """Whether the committed offsets are the ends of the logs, to the last marker."""
    names = settings.names
    mine = committed(settings, topics, role)
    ends = kafka.end_offsets(
        kafka.admin(settings.kafka),
        [TopicPartition(names.topic(t), p) for t in topics for p in range(PARTITIONS)],
        committed=True,
    )
    return {(names.topic(t), p): max(0, offset) for (t, p), offset in mine.items()} == ends


def wait(condition: Callable[[], bool], patience_s: float = 30.0) -> None:
    """Wait until something holds; fail the test if it does not."""
    until_s = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < until_s, "waited in vain"
        time.sleep(0.05)


def records(settings: Settings, topic: str) -> Iterator[Message]:
    """All committed records of a topic."""
    yield from kafka.read_to_end(settings.kafka, settings.names.topic(topic), list(range(PARTITIONS)))


def written(settings: Settings, topic: str, kind: Any) -> Iterator[tuple[int, Any]]:
    """Decoded records of a derived topic with their partition."""
    decode = decoder(kind).decode
    for message in records(settings, topic):
        if message.value() is not None:
            yield cast("int", message.partition()), decode(cast("bytes", message.value()))


def latest(settings: Settings, topic: str, kind: type[T]) -> dict[int, dict[str, T]]:
    """Newest value of each key of a compacted topic, by partition."""
    found: dict[int, dict[str, T]] = {p: {} for p in range(PARTITIONS)}
    decode = msgspec.msgpack.Decoder(kind).decode
    for message in records(settings, topic):
        mine, key = found[cast("int", message.partition())], cast("bytes", message.key()).decode()
        mine.pop(key, None)
        if message.value() is not None:
            mine[key] = decode(cast("bytes", message.value()))
    return found


def headers(message: Message) -> dict[str, str]:
    """Headers of a record as text."""
    return {k: v.decode() for k, v in cast("list[tuple[str, bytes]]", message.headers() or [])}


def dead_letters(settings: Settings, source: str) -> list[tuple[int, int, str]]:
    """(partition, offset, reason) of each dead letter of a raw topic."""
    found = []
    for message in records(settings, f"{source}.dlq"):
        said = headers(message)
        assert said["__connect.errors.topic"] == settings.names.topic(source)
        found.append(
            (
                int(said["__connect.errors.partition"]),
                int(said["__connect.errors.offset"]),
                said["__connect.errors.exception.class.name"],
            )
        )
    return found


def offline(
    settings: Settings, logs: dict[str, dict[int, list[Message]]], partition: int, advances: list[Advance]
) -> Joined:
    """Offline join of one partition's raw logs."""
    rules, homes = rules_of(settings), Homes(PARTITIONS)
    plain = Rules(
        rules.window_ms,
        rules.lateness_ms,
        rules.max_skew_ms,
        rules.history_length,
        rules.shown_exposures,
        rules.half_life_ms,
        rules.clicks_only,
    )

    def log(source: str, door: Door[T]) -> Iterator[Record[Any]]:  # type: ignore[type-var]
        for message in logs[source][partition]:
            offset, arrival_ms = cast("int", message.offset()), message.timestamp()[1]
            try:
                yield Record(offset, arrival_ms, door.enter(message.value(), partition))
            except Refused as refused:
                yield Record(offset, arrival_ms, None, refused.reason)

    return join_partition(plain, log("exposures", Door(Exposure, homes)), log("clicks", Door(Click, homes)), advances)


def by_partition(messages: Iterator[Message]) -> dict[int, list[Message]]:
    """Records of each partition, in order."""
    found: dict[int, list[Message]] = {p: [] for p in range(PARTITIONS)}
    for message in messages:
        found[cast("int", message.partition())].append(message)
    return found


def same_as_offline(settings: Settings) -> dict[str, int]:
    """Assert that all outputs are what the offline join gives, each once; give back counts to assert on."""
    samples: dict[int, list[Sample]] = {p: [] for p in range(PARTITIONS)}
    advances: dict[int, list[Advance]] = {p: [] for p in range(PARTITIONS)}
    outcomes: dict[int, list[Outcome]] = {p: [] for p in range(PARTITIONS)}
    for partition, record in written(settings, "samples", SampleRecord):
        if isinstance(record, Sample):
            samples[partition].append(record)
        elif isinstance(record, Marker):
            advances[partition] += record.advances
    for partition, outcome in written(settings, "outcomes", Outcome):
        outcomes[partition].append(outcome)
    buried = sorted((s, *at) for s in ("exposures", "clicks") for at in dead_letters(settings, s))
    histories, popularity = latest(settings, "histories", History), latest(settings, "popularity", Popularity)
    counts = dict.fromkeys(("samples", "outcomes", "dead_letters", "advances"), 0)
    expected_buried = []
    logs = {source: by_partition(records(settings, source)) for source in ("exposures", "clicks")}
    for p in range(PARTITIONS):
        joined = offline(settings, logs, p, advances[p])
        by_offset = sorted(samples[p], key=lambda s: s.click_offset)
        assert by_offset == sorted(joined.samples.values(), key=lambda s: s.click_offset)
        assert sorted(outcomes[p], key=lambda o: o.exposure_offset) == sorted(
            joined.outcomes.values(), key=lambda o: o.exposure_offset
        )
        length = 4 * settings.history.length
        assert {u: (h.clicks[-length:], h.shown) for u, h in histories[p].items()} == {
            u: (h.clicks, h.shown) for u, h in joined.histories.items()
        }
        assert {i: (c.exposures, c.clicks) for i, c in popularity[p].items()} == {
            i: (c.exposures, c.clicks) for i, c in joined.popularity.items()
        }
        expected_buried += [(source, p, offset, reason) for source, offset, reason in joined.dead_letters]
        counts["samples"] += len(samples[p])
        counts["outcomes"] += len(outcomes[p])
        counts["advances"] += len(advances[p])
    assert buried == sorted(expected_buried)
    counts["dead_letters"] = len(buried)
    return counts
