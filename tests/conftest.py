"""A real Kafka and a real Redis for the tests: started once per worker, on free ports, gone at the end.

    kafka      contract.settings.Kafka of a broker (4 partitions by default, RF 1, nothing created yet)
    redis_url  redis://127.0.0.1:PORT/0 of a Valkey or Redis
    settings   settings(**{"join.window_ms": 1000}, ...) -> contract.settings.Settings with a topic prefix, a data
               directory and ports of its own, those addresses, and short waits; no call sees another's topics or keys

Each server runs on a leash (headrace/leash.py): when this process ends, even by kill -9, the server ends too.
"""

import contextlib
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from contract.kafka import admin, partition_counts
from contract.settings import Kafka, Settings, load
from headrace import local_kafka, local_redis, ports
from headrace.process import wait_until

SettingsFactory = Callable[..., Settings]
START_S = 60
LONGEST = (
    "test_schedule_kafka",
    "test_schedule",
    "test_backfill",
    "test_serving",
    "test_loop",
    "test_faults",
    "test_app",
    "test_processor",
    "test_up",
    "test_produce",
    "test_commands",
    "test_lag_states",
    "test_lives",
    "test_train_kafka",
    "test_audit",
)
QUICK = {
    "streams.commit_interval_ms": 50,
    "streams.session_timeout_ms": 6_000,
    "join.idle_timeout_ms": 500,
    "train.max_wait_ms": 100,
    "train.checkpoint_interval_ms": 500,
    "publish.interval_ms": 1_000,
    "publish.max_wait_ms": 1_000,
}


def pytest_configure() -> None:
    """A developer's HEADRACE_ variables are none of the tests' business."""
    for name in [n for n in os.environ if n.startswith("HEADRACE_")]:
        del os.environ[name]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take longest come first, so that no worker is left alone with one at the end."""
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


@contextlib.contextmanager
def leashed(command: list[str], log: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until the block ends or this process does; entered when its port answers."""
    with log.open("ab") as out:
        server = subprocess.Popen(
            [sys.executable, "-m", "headrace.leash", *command],
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        up = wait_until(lambda: ports.answers(port) or server.poll() is not None, START_S)
        if not up or server.poll() is not None:
            raise RuntimeError(f"{command[0]} did not start: {log.read_text()[-2000:]}")
        yield server
    finally:
        assert server.stdin is not None
        server.stdin.close()
        server.wait(30)


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """Settings of a broker that runs until the session ends."""
    home = tmp_path_factory.mktemp("kafka")
    port = ports.free()
    command = local_kafka.command(home, port, ports.free(taken=[port]))
    with leashed(command, home / "kafka.log", port):
        yield Kafka(bootstrap_servers=f"127.0.0.1:{port}")


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a Redis that runs until the session ends."""
    home = tmp_path_factory.mktemp("redis")
    port = ports.free()
    with leashed(local_redis.command(home, port), home / "redis.log", port):
        yield f"redis://127.0.0.1:{port}/0"


def _factory(kafka: Kafka, redis_url: str, files: pytest.TempPathFactory) -> Iterator[SettingsFactory]:
    prefixes: list[str] = []

    def make(**overrides: Any) -> Settings:
        taken: list[int] = []
        for _ in range(4):
            taken.append(ports.free(taken=taken))
        prefixes.append(f"t{uuid.uuid4().hex[:10]}.")
        own = {
            "topic_prefix": prefixes[-1],
            "data_dir": files.mktemp("headrace") / "data",
            "kafka.bootstrap_servers": kafka.bootstrap_servers,
            "redis.url": redis_url,
            **dict(zip(("streams.port", "train.port", "publisher.port", "server.port"), taken, strict=True)),
        }
        return load({**QUICK, **own, **overrides})

    yield make
    if prefixes:  # thousands of partitions would make the one small broker, and every client's start, slow
        client = admin(kafka)
        ours = [name for name in partition_counts(client) if name.startswith(tuple(prefixes))]
        for future in client.delete_topics(ours).values() if ours else ():
            future.result(30)


@pytest.fixture
def settings(kafka: Kafka, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SettingsFactory]:
    """Make settings of a test; the call's dotted names override. Its topics are deleted after the test."""
    yield from _factory(kafka, redis_url, tmp_path_factory)


@pytest.fixture(scope="module")
def module_settings(
    kafka: Kafka, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SettingsFactory]:
    """Make settings that live as long as a module's tests."""
    yield from _factory(kafka, redis_url, tmp_path_factory)
