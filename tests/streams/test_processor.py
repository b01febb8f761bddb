"""The transactional loop on a real Kafka."""

import json
import signal
import time
from typing import Any

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import NewTopic

from contract import kafka
from contract.errors import DataLossError, RefusedError
from contract.messages import Click, Exposure, HardNegatives, History, Marker, Sample, SampleRecord, User, encode
from contract.settings import Settings
from streams import admin
from streams.join import Join
from tests.conftest import SettingsFactory
from tests.streams.evidence import (
    JUMPING,
    PARTITIONS,
    SHORT,
    START_MS,
    caught_up,
    committed,
    headers,
    latest,
    process,
    records,
    same_as_offline,
    send,
    stream,
    wait,
    worker,
    written,
)

ALL = ("exposures", "clicks", "ranking-drops", "profiles")


def test_everything_written_is_what_an_offline_join_gives(settings: SettingsFactory) -> None:
    """Samples, outcomes, dead letters, histories and counts equal the offline join, each once; lag 0 at the end."""
    made = settings(**SHORT)
    kafka.create_topics(made)
    send(made, stream(2_000))
    with worker(made):
        wait(lambda: caught_up(made))
        send(made, stream(500, seed=2, start_ms=START_MS + 1_200_000))
        wait(lambda: caught_up(made, ALL))
    counts = same_as_offline(made)
    assert counts["samples"] > 300
    assert counts["outcomes"] > 800
    assert counts["dead_letters"] > 50
    totals = admin.totals(made)
    assert totals["samples"] == counts["samples"]
    assert totals["dead_letters"] == counts["dead_letters"]


def test_killed_at_any_point_it_goes_on_exactly(settings: SettingsFactory) -> None:
    """A transaction is seen whole or not at all: after each kill -9 and a restart all equals the offline join.

    The plain kill comes when every partition has committed, so that the rebuilds after it read again.
    """
    made = settings(**SHORT, **{"streams.batch_records": 100})
    kafka.create_topics(made)
    points = ("produce:3", "before_offsets", "before_commit", "after_commit", "", "rebuild:2", "rebuild:30")
    for n, point in enumerate(points):
        send(made, stream(200, seed=n, start_ms=START_MS + n * 100_000))
        with process(made, crash_point=point and f"streams.{point}") as running:
            if not point:
                wait(lambda: sum(committed(made).values()) > n * 200 and min(committed(made).values()) > 0)  # noqa: B023  (called at once)
                running.kill()
            assert running.wait(30) == -signal.SIGKILL
    send(made, stream(200, seed=99, start_ms=START_MS + 900_000))  # so that who is caught up has started
    with process(made) as running:
        wait(lambda: caught_up(made))
        running.terminate()
        assert running.wait(15) == 0
    assert same_as_offline(made)["samples"] > 100


def test_a_clock_that_jumps_changes_no_verdict(settings: SettingsFactory) -> None:
    """A worker whose wall clock is an hour off, now ahead and now behind, writes what an offline join gives."""
    made = settings(**SHORT)
    kafka.create_topics(made)
    with process(made, clock=JUMPING) as running:
        for n in range(6):
            send(made, stream(150, seed=n, start_ms=START_MS + n * 75_000))
            time.sleep(0.25)
        wait(lambda: caught_up(made, ALL))
        running.terminate()
        assert running.wait(15) == 0
    assert same_as_offline(made)["samples"] > 100


def test_workers_that_come_and_go_lose_and_double_nothing(settings: SettingsFactory) -> None:
    """Partitions move between workers without loss; exposures-p and clicks-p are always on one worker."""
    made = settings(**SHORT)
    kafka.create_topics(made)
    send(made, stream(800, seed=6))
    with worker(made) as one:
        wait(lambda: one.health()["partitions"] == [0, 1, 2, 3])
        with worker(made, slot=1) as other:
            wait(lambda: len(one.health()["partitions"]) == len(other.health()["partitions"]) == 2)
            assert not set(one.health()["partitions"]) & set(other.health()["partitions"])
            send(made, stream(400, seed=7, start_ms=START_MS + 400_000))
        send(made, stream(400, seed=8, start_ms=START_MS + 600_000))
        wait(lambda: caught_up(made))
        assert one.health()["partitions"] == [0, 1, 2, 3]
    assert same_as_offline(made)["samples"] > 200


def test_what_no_join_can_take_is_one_dead_letter_each(settings: SettingsFactory) -> None:
    """Garbage, a wrong partition, a future ts and a record at the size limit: original bytes, reason, exactly once."""
    made = settings(**SHORT, **{"join.idle_timeout_ms": 60_000})
    kafka.create_topics(made)
    now_ms = time.time_ns() // 1_000_000
    good = {"request_id": "r", "user_id": "u1", "ts_ms": START_MS, "items": ["i1"]}
    home = kafka.partition_of(b"u1", PARTITIONS)
    bad: list[tuple[str, bytes, int, str]] = [
        ("exposures", b"\xff\x00", home, "broken"),
        ("exposures", b"[]", home, "broken"),
        ("exposures", b'{"request_id": "' + b"x" * 1_048_000 + b'"}', home, "broken"),
        ("exposures", json.dumps(good).encode(), (home + 1) % PARTITIONS, "wrong_partition"),
        ("exposures", json.dumps({**good, "ts_ms": now_ms + 3_600_000}).encode(), home, "ahead"),
        ("ranking-drops", b"{}", home, "broken"),
        ("ranking-drops", json.dumps({**good, "ts_ms": now_ms + 3_600_000}).encode(), home, "ahead"),
        ("clicks", b"", home, "broken"),
    ]
    producer = kafka.producer(made.kafka)
    for topic, value, partition, _ in bad:
        kafka.produce(producer, made.names.topic(topic), value, b"k", partition=partition, headers=[("mine", b"1")])
    kafka.produce(producer, made.names.topic("ranking-drops"), json.dumps(good).encode(), b"u1", partition=home)
    producer.flush(10)
    with worker(made):
        wait(lambda: caught_up(made, ALL))
    found = []
    for topic in ("exposures", "clicks", "ranking-drops"):
        for letter in records(made, f"{topic}.dlq"):
            said = headers(letter)
            assert said["mine"] == "1"
            assert letter.key() == b"k"
            assert said["__connect.errors.topic"] == made.names.topic(topic)
            partition, reason = int(said["__connect.errors.partition"]), said["__connect.errors.exception.class.name"]
            found.append((topic, letter.value(), partition, reason))
    assert sorted(found, key=str) == sorted(bad, key=str)
    drops = [record for _, record in written(made, "samples", SampleRecord) if isinstance(record, HardNegatives)]
    assert [(d.user_id, d.items) for d in drops] == [("u1", ["i1"])]


def test_an_idle_input_holds_nobody_up(settings: SettingsFactory) -> None:
    """With clicks silent, windows close by recorded idle advances; a last event is not held for ever."""
    made = settings(**SHORT)
    kafka.create_topics(made)
    sent = [("exposures", Exposure(f"r{n}", "u1", START_MS + n * 10_000, ["i1"])) for n in range(20)]
    send(made, iter(sent))
    with worker(made):
        wait(lambda: sum(1 for _ in records(made, "outcomes")) >= 13)
    markers = [record for _, record in written(made, "samples", SampleRecord) if isinstance(record, Marker)]
    assert any(marker.idle for marker in markers)
    assert same_as_offline(made)["advances"] > 0


def test_a_deleted_user_has_no_history(settings: SettingsFactory) -> None:
    """A tombstone on profiles tombstones the user's history, in a transaction of the loop; others keep theirs.

    The marker names who was deleted: once the user is back, compaction takes both tombstones, and the audit must know.
    """
    made = settings(**SHORT)
    kafka.create_topics(made)
    shown = [("exposures", Exposure("r", user, START_MS, ["i1"])) for user in ("u1", "u2")]
    clicked = [("clicks", Click(user, "i1", START_MS + 1, request_id="r")) for user in ("u1", "u2")]
    send(made, iter([*shown, *clicked]))
    producer = kafka.producer(made.kafka)
    kafka.produce(producer, made.names.topic("profiles"), encode(User("u1", START_MS)), b"u1")
    producer.flush(10)
    with worker(made):
        wait(lambda: caught_up(made, ALL))
        assert {u for part in latest(made, "histories", History).values() for u in part} == {"u1", "u2"}
        kafka.produce(producer, made.names.topic("profiles"), None, b"u1")
        producer.flush(10)
        wait(lambda: {u for part in latest(made, "histories", History).values() for u in part} == {"u2"})
    markers = [record for _, record in written(made, "samples", SampleRecord) if isinstance(record, Marker)]
    assert [user for marker in markers for user in marker.deleted] == ["u1"]


def test_a_record_that_the_core_cannot_take_is_isolated(
    settings: SettingsFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the core itself fails on a record, that one alone is dead-lettered as poison and the rest flows."""
    made = settings(**SHORT)
    kafka.create_topics(made)
    take = Join.click

    def fails_on_one(self: Join, offset: int, arrival_ms: int, event: Click, raw: Any) -> None:
        if event.item_id == "poison":
            raise ZeroDivisionError
        take(self, offset, arrival_ms, event, raw)

    monkeypatch.setattr(Join, "click", fails_on_one)
    send(made, iter([("exposures", Exposure("r", "u1", START_MS, ["i1", "poison", "i2"]))]))
    send(made, iter(("clicks", Click("u1", i, START_MS + 1, request_id="r")) for i in ("i1", "poison", "i2")))
    with worker(made):
        wait(lambda: caught_up(made))
    with worker(made):  # on re-read it is skipped as well
        wait(lambda: caught_up(made))
    (letter,) = records(made, "clicks.dlq")
    assert headers(letter)["__connect.errors.exception.class.name"] == "poison"
    samples = [record for _, record in written(made, "samples", SampleRecord) if isinstance(record, Sample)]
    assert sorted(sample.item_id for sample in samples) == ["i1", "i2"]


def test_a_rewound_group_is_refused(settings: SettingsFactory) -> None:
    """No event is applied twice in a namespace: offsets set by hand stop the worker, with the way out."""
    made = settings(**SHORT)
    kafka.create_topics(made)
    client = kafka.consumer(made.kafka, made.names.group("streams"))
    at = [TopicPartition(made.names.topic(t), p, 0) for t in ("exposures", "clicks") for p in range(PARTITIONS)]
    client.commit(offsets=at, asynchronous=False)
    client.close()
    with pytest.raises(RefusedError, match="--namespace"), worker(made):
        time.sleep(4)


def test_a_log_that_lost_what_is_needed_stops_the_worker(settings: SettingsFactory) -> None:
    """Retention that overtook the loop is said, never silent."""
    made = settings(**SHORT)
    _run_once(made)
    send(made, stream(300, seed=9))
    client = kafka.admin(made.kafka)
    ends = kafka.end_offsets(client, [TopicPartition(made.names.topic("exposures"), p) for p in range(PARTITIONS)])
    gone = [TopicPartition(topic, p, offset) for (topic, p), offset in ends.items()]
    for future in client.delete_records(gone).values():
        future.result(10)
    with pytest.raises(DataLossError, match="retention"), worker(made):
        time.sleep(4)


def test_a_raw_topic_that_forgets_too_soon_is_refused(settings: SettingsFactory) -> None:
    """Retention below window + 2 * lateness is refused at the start, with the way out."""
    made = settings()
    topic = NewTopic(made.names.topic("clicks"), PARTITIONS, 1, config={"retention.ms": "60000"})
    client = kafka.admin(made.kafka)
    client.create_topics([topic])[topic.topic].result(10)
    with pytest.raises(RefusedError, match="retention"):
        admin.prepare(made)


def _run_once(made: Settings) -> None:
    kafka.create_topics(made)
    send(made, stream(200, seed=10))
    with worker(made):
        wait(lambda: caught_up(made))
