"""The Redis layout, on one Redis and on a Redis Cluster of one node that holds all slots."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import redis
from pydantic import SecretStr

from contract.messages import Served
from contract.redis import connect
from contract.settings import Redis
from contract.topics import Names
from contract.updates import F32, UserRows, user_sections
from headrace import local_redis, ports
from publisher.store import BUCKETS, RolledBackError, Store, UserValues, read_status
from tests.conftest import leashed
from tests.publisher.worlds import START, wait_for

USERS = [f"u{n}" for n in range(3_000)]


@contextlib.contextmanager
def cluster_of_one(home: Path) -> Iterator[Redis]:
    """Settings of a Redis Cluster of one node."""
    port, bus = ports.free(), 0
    bus = ports.free(taken=[port])
    command = [*local_redis.command(home, port), "--cluster-enabled", "yes", "--cluster-port", str(bus)]
    with leashed(command, home / "redis.log", port):
        with redis.Redis(port=port) as node:
            node.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16_383)
            wait_for(lambda: b"cluster_state:ok" in node.execute_command("CLUSTER", "INFO", NEVER_DECODE=True))
        yield Redis(url=SecretStr(f"redis://127.0.0.1:{port}/0"), cluster=True)


@pytest.fixture(scope="module", params=["one", "cluster"])
def store(request: pytest.FixtureRequest, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with contextlib.ExitStack() as stack:
        if request.param == "cluster":
            settings = stack.enter_context(cluster_of_one(tmp_path_factory.mktemp("cluster")))
        else:
            settings = Redis(url=SecretStr(redis_url))
        client = connect(settings)
        yield Store(client, Names(f"{request.param}-store-test.", "live"))
        client.close()


def rows(ids: list[str], value: float, deleted: list[str] | None = None) -> list[UserRows]:
    """Sections of equal rows [n, 4]."""
    values: F32 = np.full((len(ids), 4), value, np.float32)
    return list(user_sections(ids, values, deleted or [], 5_000))


def packed(value: float) -> bytes:
    return np.full(4, value, "<f4").tobytes()


def test_delta_then_snapshot(store: Store) -> None:
    """A delta sets and deletes; a snapshot makes a version exactly its rows; versions do not touch each other."""
    assert store.replace_rows(1, rows(USERS, 1.0), 4) == len(USERS)
    assert store.replace_rows(2, rows(USERS[:10], 5.0), 4) == 10
    assert store.put_rows(1, rows(["u1", "new"], 2.0, ["u2"]), 4) == 2
    assert [store.user(1, user).row for user in ("u0", "u1", "u2", "new")] == [packed(1), packed(2), None, packed(2)]
    assert store.user(2, "u1").row == packed(5)
    assert store.replace_rows(1, rows(USERS[5:8], 3.0), 4) == 3
    assert [store.user(1, user).row for user in ("u0", "u5", "u7", "new")] == [None, packed(3), packed(3), None]
    store.delete_rows([1, 2], ["u5"])
    assert (store.user(1, "u5").row, store.user(2, "u5").row, store.user(2, "u6").row) == (None, None, packed(5))


def test_users_records(store: Store) -> None:
    """Histories and profiles are the records' bytes; None deletes; clearing one kind leaves the other."""
    store.put_users("histories", {user: user.encode() for user in USERS})
    store.put_users("profiles", {"u1": b"p", "é\x00 ü": b"odd"})
    store.put_users("histories", {"u2": None, "never": None})
    assert store.user(9, "u1") == UserValues(None, b"u1", b"p")
    assert store.user(9, "u2").history is None
    assert store.user(9, "é\x00 ü").profile == b"odd"
    store.clear_users("histories")
    assert store.user(9, "u1") == UserValues(None, None, b"p")


def test_applied_and_expiry(store: Store) -> None:
    """What is applied is read back as written; a version let go is forgotten at once and its rows a while later."""
    held = store.set_applied({"updates": 12, "histories:3": 4, "version:7": 500}, {})
    assert store.applied() == held == {"updates": 12, "histories:3": 4, "version:7": 500, "writes": 1}
    store.replace_rows(7, rows(USERS, 1.0), 4)
    store.expire([7])
    store.forget_applied(["histories:3"])
    assert store.applied() == {"updates": 12, "writes": 1}
    assert store.user(7, "u1").row == packed(1)
    lives = [int(store.client.ttl(store._rows_key(7, at))) for at in range(BUCKETS)]
    assert all(0 < life <= 600 for life in lives if life != -2)


def test_applied_over_what_is_held(store: Store) -> None:
    """Nothing is written down over a Redis that was emptied, or that came back as it was some writes ago."""
    key = store.names.key("applied")
    store.client.delete(key)
    first = store.set_applied({"updates": 1}, {})
    second = first | store.set_applied({"updates": 2}, first)
    for name, value in first.items():  # back from a copy
        store.client.hset(key, name, str(value))
    with pytest.raises(RolledBackError):
        store.set_applied({"updates": 3}, second)
    store.client.delete(key)
    with pytest.raises(RolledBackError):
        store.set_applied({"updates": 3}, second)
    assert store.applied() == {}


def test_status(store: Store) -> None:
    """Nothing before a version is served; then the pointer, and what was applied of its version."""
    store.client.delete(store.names.key("served"))
    assert read_status(store.client, store.names) == {}
    store.mirror(Served("live", 7, 6, 1))
    assert read_status(store.client, store.names) == {"namespace": "live", "version": 7, "previous": 6}
    store.put_manifest(7, 3, START, 123, None)
    status = read_status(store.client, store.names)
    assert (status["sequence"], status["applied_ms"], status["freshness_ms"]) == (3, 123, None)


def test_heartbeat(store: Store) -> None:
    """No sign of life is None."""
    store.client.delete(store.names.key("heartbeat"))
    assert store.heartbeat_ms() is None
    store.beat(77)
    assert store.heartbeat_ms() == 77
