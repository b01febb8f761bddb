"""From `updates` to answers: a publisher and a recall server on a real Kafka and Redis."""

import contextlib
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import psutil
import pytest
from confluent_kafka import KafkaException, TopicPartition
from pydantic import SecretStr

from contract.errors import RefusedError
from contract.kafka import admin, consumer, end_offsets, partition_counts
from contract.messages import Served
from contract.redis import connect
from contract.settings import Settings
from contract.updates import Chunk
from headrace import local_redis, ports
from publisher import index_files
from publisher.control import pointer_of, roll_back, write
from publisher.store import Store, read_status
from tests.conftest import SettingsFactory, leashed
from tests.publisher.worlds import Recall, Trainer, World, new_world, publishing, serving, wait_for


@pytest.fixture
def world() -> World:
    return new_world()


@pytest.fixture
def own(settings: SettingsFactory) -> Settings:
    return settings(**{"model.dim": 8, "kafka.partitions": 2, "publish.keep_versions": 2})


@pytest.fixture
def trainer(own: Settings) -> Trainer:
    return Trainer(own)


@pytest.fixture
def store(own: Settings) -> Iterator[Store]:
    client = connect(own.redis)
    yield Store(client, own.names)
    client.close()


@pytest.fixture
def recall(own: Settings, trainer: Trainer, world: World) -> Iterator[Recall]:
    """A publisher and a server that answer from version 1 of the world."""
    trainer.send(world.snapshot())
    with publishing(own), serving(own) as running:
        wait_for(lambda: running.at(1, 0))
        yield running


def is_right(world: World, answer: dict[str, Any], user: str, clicks: list[str]) -> bool:
    """Tell whether all candidates have the scores of a world, by the formulas in float64."""
    wanted = world.scores(world.query(user, clicks))
    return all(abs(c["score"] - wanted.get(c["item"], np.inf)) < 1e-4 for c in answer["candidates"])


def behind(settings: Settings) -> int:
    """Lag of the publisher's group over everything it reads, as `headrace lag` counts it."""
    client, names = admin(settings.kafka), settings.names
    counts = partition_counts(client)
    topics = [names.topic(name) for name in ("updates", "histories", "profiles")]
    parts = [TopicPartition(topic, p) for topic in topics for p in range(counts[topic])]
    ends = end_offsets(client, parts)
    reader = consumer(settings.kafka, names.group("publisher"))
    try:
        with contextlib.suppress(KafkaException):  # a broker's first group: the coordinator is not there yet
            return sum(ends[(p.topic, p.partition)] - max(p.offset, 0) for p in reader.committed(parts, 10))
        return sum(ends.values())
    finally:
        reader.close()


def rows_of(store: Store, version: int) -> dict[str, bytes]:
    """All user rows of a version in Redis."""
    pattern = store.names.key("rows", version, "*")
    found: dict[str, bytes] = {}
    for key in store.client.scan_iter(match=pattern):
        assert not key.endswith(b":new")
        values: Any = store.client.hgetall(key)
        found |= {user.decode(): row for user, row in values.items()}
    return found


def packed(world: World) -> dict[str, bytes]:
    """All user rows as they were published."""
    return {user: row.astype("<f4").tobytes() for user, row in world.users.items()}


def test_deleted_is_gone(recall: Recall, trainer: Trainer, world: World, own: Settings, store: Store) -> None:
    """A deleted user's row, history and profile leave Redis, also of versions to go back to; a deleted item is found
    nowhere, also after a roll-back.
    """  # noqa: D205
    trainer.history("u5", ["i1"])
    trainer.profile("u5", country="fr")
    wait_for(lambda: recall.get("/recall/u5")["basis"] == ["id", "history", "profile"])
    newer = world.next_version()
    trainer.send(newer.snapshot())
    wait_for(lambda: recall.at(2, 0))
    trainer.forget("histories", "u5")
    trainer.forget("profiles", "u5")
    trainer.send(newer.delta([], [], gone=(["u5"], ["i1"])))
    wait_for(lambda: recall.at(2, 1) and recall.get("/recall/u5")["basis"] == [])
    assert all(store.user(version, "u5") == (None, None, None) for version in (1, 2))
    assert rows_of(store, 2) == packed(newer)
    assert "i1" not in {c["item"] for c in recall.get("/recall/u1", k=1_000)["candidates"]}
    roll_back(own)
    wait_for(lambda: recall.at(1, 0))
    assert recall.get("/recall/u5")["basis"] == []
    assert "i1" not in {c["item"] for c in recall.get("/recall/u1", k=1_000)["candidates"]}
    assert "i1" not in {c["item"] for c in recall.get("/similar/i2", k=1_000)["candidates"]}


def test_hot_reload_under_load(recall: Recall, trainer: Trainer, world: World, own: Settings) -> None:
    """While versions change, go back and deltas flow, no query fails and each is answered by one version whole."""
    trainer.history("u1", ["i1", "i2"])
    wait_for(lambda: recall.get("/recall/u1")["basis"] == ["id", "history"])
    worlds = {1: world}
    answers: list[dict[str, Any]] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            answers.append(recall.get("/recall/u1", k=5, exclude_seen="none"))

    askers = [threading.Thread(target=ask) for _ in range(4)]
    for asker in askers:
        asker.start()
    for version in (2, 3):
        worlds[version] = worlds[version - 1].next_version()
        trainer.send(worlds[version].snapshot())
        wait_for(partial(recall.at, version, 0))
    back = roll_back(own)
    wait_for(lambda: recall.at(2, 0))
    stop.set()
    for asker in askers:
        asker.join(10)
    assert (back.version, back.previous) == (2, 3)
    assert {a["version"] for a in answers} == {1, 2, 3}
    for answer in answers:
        assert len(answer["candidates"]) == 5
        assert is_right(worlds[answer["version"]], answer, "u1", ["i2", "i1"])


def broken(chunks: list[Chunk]) -> list[Chunk]:
    """The same chunks, one with a flipped bit."""
    last = chunks[-1]
    damaged = last.section[:-1] + bytes([last.section[-1] ^ 1])
    return [*chunks[:-1], Chunk(last.kind, last.version, last.sequence, last.chunk, last.chunks, last.crc32, damaged)]


def test_gap_crc_and_wrong_version_are_refused_and_healed(
    recall: Recall, trainer: Trainer, world: World, store: Store, own: Settings
) -> None:
    """A broken chunk, the gap behind it and a delta of another version change nothing; the next snapshot heals all."""
    before, served = packed(world), dict(world.vectors)
    trainer.send(broken(world.delta(["u1"], ["i1"])))
    trainer.send(world.delta(["u2"], ["i2", "late"]))
    other = world.next_version()
    trainer.send(other.delta(["u3"], ["i3"]))
    wait_for(lambda: behind(own) == 0)
    assert recall.at(1, 0)
    assert rows_of(store, 1) == before
    assert store.applied()["version:1"] == 0
    assert {c["item"] for c in recall.get("/recall/x", k=1_000)["candidates"]} == set(served)
    world.sequence += 1
    trainer.send(world.snapshot())
    wait_for(lambda: recall.at(1, world.sequence) and store.applied()["version:1"] == world.sequence)
    assert rows_of(store, 1) == packed(world)
    assert is_right(world, recall.get("/recall/u2", k=1_000), "u2", [])
    trainer.send(world.delta(["u7"], ["i7"]))
    wait_for(lambda: recall.at(1, world.sequence) and rows_of(store, 1) == packed(world))
    assert is_right(world, recall.get("/recall/u7", k=1_000), "u7", [])


def test_emptied_redis_is_filled_again(
    recall: Recall, trainer: Trainer, world: World, store: Store, own: Settings
) -> None:
    """An emptied Redis, and one back from an old copy, is noticed and made byte for byte what was published."""
    trainer.history("u1", ["i1"])
    trainer.profile("u2", country="de")
    trainer.send(world.delta(["u1", "fresh"], ["i1"]))
    wait_for(lambda: recall.at(1, 1) and behind(own) == 0)
    keys = list(store.client.scan_iter(match=store.names.key("*")))
    old: dict[Any, Any] = {key: store.client.dump(key) for key in keys}
    for copy in (dict[Any, Any](), old):
        trainer.send(world.delta(["u3"], ["i3"], gone=(["u4"], [])))
        trainer.history("u3", ["i5"])
        wait_for(lambda: recall.at(1, world.sequence) and behind(own) == 0)
        store.client.delete(*store.client.scan_iter(match=store.names.key("*")))
        for key, value in copy.items():
            store.client.restore(key, 0, value)
        wait_for(lambda: store.applied().get("version:1") == world.sequence and rows_of(store, 1) == packed(world))
        wait_for(lambda: recall.get("/recall/u3")["basis"] == ["id", "history"])
        assert recall.get("/recall/u1")["basis"] == ["id", "history"]
        assert recall.get("/recall/u2")["basis"] == ["id", "profile"]
        assert read_status(store.client, own.names)["sequence"] == world.sequence
        world.users.pop("u4", None)


def test_restart_goes_on(own: Settings, trainer: Trainer, world: World, store: Store) -> None:
    """A publisher that comes back goes on where Redis and its index files are; lag 0 means applied; versions expire."""
    trainer.send(world.snapshot())
    with publishing(own):
        wait_for(lambda: behind(own) == 0)
        assert rows_of(store, 1) == packed(world)
    for _ in range(3):
        trainer.send(world.delta(["u1", "u2"], ["i1"]))
    trainer.history("u1", ["i1"])
    hasty = own.model_copy(update={"server": own.server.model_copy(update={"degraded_after_ms": 1_000})})
    with serving(hasty) as recall:
        wait_for(lambda: recall.at(1, 3))
        wait_for(lambda: "the publisher is silent" in str(recall.get("/recall/u1")["degraded"]))
    with publishing(own), serving(own) as recall:
        wait_for(lambda: recall.at(1, 3) and behind(own) == 0)
        assert rows_of(store, 1) == packed(world)
        assert is_right(world, recall.get("/recall/u1", k=100), "u1", ["i1"])
        newer = world
        for version in (2, 3, 4):
            newer = newer.next_version()
            trainer.send(newer.snapshot())
            wait_for(partial(recall.at, version, 0))
        wait_for(lambda: behind(own) == 0)
        kept = {int(name[8:]) for name in store.applied() if name.startswith("version:")}
        assert kept == {3, 4}
        assert {v for v, _ in index_files.written(own.files)} == {3, 4}
        ttl = store.client.ttl(next(store.client.scan_iter(match=store.names.key("rows", 1, "*"))))
        assert 0 < int(ttl) <= 600
        with pytest.raises(RefusedError, match="no longer kept"):
            roll_back(own, 1)
        assert (pointer_of(own).version, pointer_of(own).previous) == (4, 3)  # type: ignore[union-attr]


def test_freshness_is_of_the_newest_click(own: Settings, trainer: Trainer, world: World, store: Store) -> None:
    """An update without a newer click, and a restart, leave freshness as the newest click's delta had it."""

    def told(recall: Recall) -> tuple[Any, Any]:
        wait_for(lambda: recall.at(1, world.sequence) and store.applied().get("version:1") == world.sequence)
        return recall.get("/version")["freshness_ms"], read_status(store.client, own.names)["freshness_ms"]

    trainer.send(world.snapshot())
    with publishing(own), serving(own) as recall:
        assert told(recall) == (None, None)
        trainer.send(world.delta(["u1"]))
        first = told(recall)
        assert 50 <= min(first) <= max(first) < 10_000
        clicked_ms = world.manifest.arrival_ms
        time.sleep(max(first) / 1_000)
        trainer.send(world.delta([], ["i1"], arrival_ms=clicked_ms))
        assert told(recall) == first
    trainer.send(world.delta([], ["i2"], arrival_ms=clicked_ms))
    with publishing(own), serving(own) as recall:
        assert told(recall) == (first[1], first[1])


def test_rolled_back_version_stays_back(own: Settings, trainer: Trainer, world: World) -> None:
    """After a roll-back neither deltas nor a restart of the publisher bring the version back; a newer one is served."""
    trainer.send(world.snapshot())
    second = world.next_version()
    with publishing(own), serving(own) as recall:
        wait_for(lambda: recall.at(1, 0))
        trainer.send(second.snapshot())
        wait_for(lambda: recall.at(2, 0))
        roll_back(own)
        wait_for(lambda: recall.at(1, 0))
    with publishing(own), serving(own) as recall:
        trainer.send(second.delta(["u1"], ["i1"]))
        wait_for(lambda: recall.at(1, 0) and behind(own) == 0)
        assert recall.get("/version")["served"] == {"namespace": "live", "version": 1}
        third = second.next_version()
        trainer.send(third.snapshot())
        wait_for(lambda: recall.at(3, 0))


def test_server_without_index_files_reads_updates(own: Settings, trainer: Trainer, world: World) -> None:
    """A server that finds no index files (another machine) builds the served version from `updates`."""
    trainer.send(world.snapshot())
    trainer.send(world.delta(["u1"], ["i1"]))
    with publishing(own):
        wait_for(lambda: behind(own) == 0)
        elsewhere = own.model_copy(update={"data_dir": own.data_dir / "elsewhere"})
        with serving(elsewhere) as recall:
            wait_for(lambda: recall.at(1, 1))
            assert is_right(world, recall.get("/recall/u1", k=100), "u1", [])


def test_approximate_index_follows_too(settings: SettingsFactory) -> None:
    """IVF: deltas are searched at once, an index built anew slides under the overlay, every score stays exact."""
    own = settings(**{"publisher.exact_max_items": 100, "publisher.overlay_max_items": 20})
    world, trainer = new_world(items=600), Trainer(own)
    trainer.send(world.snapshot())
    with publishing(own), serving(own) as recall:
        wait_for(lambda: recall.at(1, 0))
        assert recall.get("/version")["exact"] is False
        for n in range(4):
            trainer.send(
                world.delta([], [f"i{n * 10 + m}" for m in range(9)] + [f"new{n}"], gone=([], [f"i{500 + n}"]))
            )
        wait_for(lambda: recall.at(1, 4))
        wait_for(lambda: recall.get("/version")["overlay_items"] <= 20)
        assert {v for v in index_files.written(own.files) if v[1] > 0}
        answer = recall.get("/recall/u1", k=1_000)
        assert is_right(world, answer, "u1", [])
        assert "i500" not in {c["item"] for c in answer["candidates"]}
        best = sorted((scores := world.scores(world.query("u1", []))), key=lambda i: -scores[i])[:20]
        found = {c["item"] for c in recall.get("/recall/u1", k=20)["candidates"]}
        assert len(found & set(best)) >= 18


def test_promoted_namespace_is_served_and_back(own: Settings, trainer: Trainer, world: World) -> None:
    """A pointer to another namespace moves the server there, whole; back it goes on with what came meanwhile."""
    other = own.model_copy(
        update={"namespace": "backfill", "publisher": own.publisher.model_copy(update={"port": ports.free()})}
    )
    theirs, their_trainer = new_world(seed=7), Trainer(other)
    trainer.send(world.snapshot())
    with publishing(own), serving(own) as recall:
        wait_for(lambda: recall.at(1, 0))
        their_trainer.send(theirs.snapshot())
        their_trainer.send(theirs.delta(["u1"], ["i1"]))
        with publishing(other):
            wait_for(lambda: behind(other) == 0)
            assert recall.get("/version")["namespace"] == "live"
            write(own, Served("backfill", 1, 0, 1))
            wait_for(lambda: recall.get("/recall/u1")["namespace"] == "backfill")
            wait_for(lambda: recall.at(1, 1))
            assert is_right(theirs, recall.get("/recall/u1", k=100), "u1", [])
            trainer.send(world.delta(["u1"], ["i1"]))
            their_trainer.send(theirs.delta(["u2"], ["i2"]))
            wait_for(lambda: recall.at(1, 2) and behind(other) == 0 == behind(own))
            assert is_right(theirs, recall.get("/recall/u2", k=100), "u2", [])
            write(own, Served("nowhere", 9, 0, 2))
            wait_for(lambda: "version 9 of nowhere" in str(recall.get("/recall/u2")["degraded"]))
            write(own, Served("live", 1, 0, 3))
            wait_for(lambda: recall.get("/recall/u1")["namespace"] == "live" and recall.at(1, 1))
            trainer.send(world.delta(["u3"], ["i3"]))
            wait_for(lambda: recall.at(1, 2) and behind(own) == 0)
            answer = recall.get("/recall/u3", k=100)
            assert answer["degraded"] is None
            assert is_right(world, answer, "u3", [])


def test_before_there_is_a_model(own: Settings) -> None:
    """Without a version /recall answers 200 with nothing and says why; /healthz says 503 so that a balancer waits."""
    with serving(own) as recall:
        answer = recall.get("/recall/u1")
        assert (answer["candidates"], answer["degraded"], answer["version"]) == ([], "no model yet", 0)
        assert recall.http.get("/healthz").status_code == 503
        assert recall.http.get("/similar/i1").status_code == 404
        assert recall.get("/version")["version"] == 0


def test_redis_away(own: Settings, trainer: Trainer, world: World) -> None:
    """While Redis is away every answer is a 200 within a second that says degraded, from the context alone; when it is
    back so are rows and histories.
    """  # noqa: D205
    with a_redis(own) as (alone, redis_server):
        trainer.send(world.snapshot())
        trainer.history("u1", ["i1"])
        with publishing(alone), serving(alone) as recall:
            wait_for(lambda: recall.at(1, 0) and recall.get("/recall/u1")["basis"] == ["id", "history"])
            redis_server.suspend()
            for _ in range(5):
                begun = time.monotonic()
                answer = recall.get("/recall/u1", context_tab="1")
                assert time.monotonic() - begun < 1
                assert "Redis does not answer" in answer["degraded"]
                assert answer["basis"] == ["context"]
                assert len(answer["candidates"]) == 10
                assert recall.get("/recall/u1")["basis"] == []
            redis_server.resume()
            wait_for(lambda: recall.get("/recall/u1")["basis"] == ["id", "history"])
            assert recall.get("/recall/u1")["degraded"] is None


@contextlib.contextmanager
def a_redis(settings: Settings) -> Iterator[tuple[Settings, psutil.Process]]:
    """A Redis of its own, its settings and its process."""
    home, port = settings.data_dir / "redis", ports.free()
    home.mkdir(parents=True)
    with leashed(local_redis.command(home, port), home / "log", port) as leash:
        mine = settings.redis.model_copy(update={"url": SecretStr(f"redis://127.0.0.1:{port}/0")})
        yield settings.model_copy(update={"redis": mine}), psutil.Process(leash.pid).children()[0]
