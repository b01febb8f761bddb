"""The streams role as a process: its Faust shell, the check-in of items and users, its pages, its end."""

import contextlib
import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from contract import kafka
from contract.messages import Item, User
from contract.settings import Settings, environment_of
from headrace import ports
from tests.conftest import SettingsFactory
from tests.streams.evidence import (
    PARTITIONS,
    SHORT,
    START_MS,
    caught_up,
    headers,
    latest,
    records,
    same_as_offline,
    send,
    stream,
    wait,
)

RUN = "from contract import settings; from streams.app import run; run(settings.load(), SLOT)"


@contextmanager
def role(settings: Settings, where: Path, slot: int = 0) -> Iterator[subprocess.Popen[bytes]]:
    """Run the role; at the end it must stop by itself on SIGTERM, soon and without an error."""
    where.mkdir(exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-c", RUN.replace("SLOT", str(slot))],
        env={**environment_of(settings), "PYTHONPATH": str(Path.cwd())},
        cwd=where,
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        started_s = time.monotonic()
        try:
            code = process.wait(15)
        finally:
            process.kill()
    assert code == 0
    assert time.monotonic() - started_s < 8
    assert not list(where.iterdir())


def page(settings: Settings, path: str, slot: int = 0) -> bytes:
    """Body of one of the role's pages."""
    with urllib.request.urlopen(f"http://127.0.0.1:{settings.streams.port + 100 * slot}{path}", timeout=5) as answer:
        return bytes(answer.read())


def test_items_and_users_are_checked_in_and_the_loop_runs_beside(settings: SettingsFactory, tmp_path: Path) -> None:
    """Good records reach catalogue and profiles, deletions pass on, bad ones are dead-lettered; all lag goes to 0."""
    made = settings(**SHORT)
    kafka.create_topics(made)
    producer, topic = kafka.producer(made.kafka), made.names.topic

    def put(name: str, key: bytes | None, value: bytes | None, **more: Any) -> None:
        kafka.produce(producer, topic(name), value, key, **more)

    for n in range(50):
        put("items", f"i{n}".encode(), b'{"item_id": "i%d", "ts_ms": 1700000000000, "features": {"tag": ["a"]}}' % n)
        put("users", f"p{n}".encode(), b'{"user_id": "p%d", "ts_ms": 1700000000000}' % n)
    put("items", b"i7", None)
    put("items", b"x", b'{"item_id": 7}')
    put("items", b"i8", b'{"item_id": "i8", "ts_ms": 1700000000001}', partition=(_home(b"i8") + 1) % PARTITIONS)
    put("users", b"p3", b"")
    put("users", b"p4", b'{"user_id": "p4", "ts_ms": 1700000000001}', partition=(_home(b"p4") + 1) % PARTITIONS)
    producer.flush(10)
    send(made, stream(600))
    with role(made, tmp_path / "cwd"):
        wait(lambda: caught_up(made) and caught_up(made, ("items", "users"), "streams-check"), 40)
        catalogue, profiles = latest(made, "catalogue", Item), latest(made, "profiles", User)
        everything = {name: item for part in catalogue.values() for name, item in part.items()}
        assert sorted(everything) == sorted(f"i{n}" for n in range(50) if n != 7)
        assert everything["i8"].ts_ms == 1_700_000_000_001
        assert {u for part in profiles.values() for u in part} == {f"p{n}" for n in range(50) if n != 3}
        items_dlq, users_dlq = list(records(made, "items.dlq")), list(records(made, "users.dlq"))
        assert [m.value() for m in items_dlq if m.value()] == [b'{"item_id": 7}']
        assert len(items_dlq) == 1
        assert [headers(m)["__connect.errors.exception.class.name"] for m in users_dlq] == ["wrong_partition"]
        assert json.loads(page(made, "/healthz"))["partitions"] == [0, 1, 2, 3]
        assert b"headrace_samples_total" in page(made, "/metrics")
        done = {(topic("clicks"), 0), (topic("exposures"), 0)}  # the page tells of looks, the last a moment ago
        wait(lambda: {(row["topic"], row["lag"]) for row in json.loads(page(made, "/lag"))} >= done, 40)
    assert same_as_offline(made)["samples"] > 50


def _home(key: bytes) -> int:
    return kafka.partition_of(key, PARTITIONS)


def test_two_workers_share_the_partitions(settings: SettingsFactory, tmp_path: Path) -> None:
    """Slot 0 and slot 1 of the role run at once, each with its pages, and end cleanly; nothing is lost or doubled."""
    made = settings(**SHORT)
    kafka.create_topics(made)
    send(made, stream(300))
    with role(made, tmp_path / "one"), role(made, tmp_path / "two", slot=1):
        wait(lambda: _shares(made) == [2, 2], 60)
        send(made, stream(300, seed=2, start_ms=1_700_000_150_000))
        wait(lambda: caught_up(made))
    assert same_as_offline(made)["samples"] > 50


def _shares(made: Settings) -> list[int]:
    try:
        return [len(json.loads(page(made, "/healthz", slot))["partitions"]) for slot in (0, 1)]
    except OSError:
        return []  # not up yet


@contextmanager
def command(settings: Settings, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`headrace run streams` as its supervisor starts it; its worker with it is gone at the end."""
    with log.open("wb") as out:
        starter = subprocess.Popen(
            [sys.executable, "-m", "headrace", "run", "streams"],
            env={**environment_of(settings), "PYTHONPATH": str(Path.cwd())},
            stdout=out,
            stderr=out,
        )
    try:
        yield starter
    finally:
        starter.kill()
        starter.wait()


# Past the session time-out of 6 s it rejoins, and fences the other one. Twice it then hung: cause not proven.
@pytest.mark.parametrize("stopped_s", [0, pytest.param(9, marks=pytest.mark.long)])
def test_a_fenced_worker_ends_with_one_line(settings: SettingsFactory, tmp_path: Path, stopped_s: int) -> None:
    """A stopped worker whose slot another process took over wakes up: it says so in one line and ends, not with 0.

    Its starter ends with it, so that the supervisor decides when the slot starts again. It may have fenced the other
    one's membership before: that one does not live on without reading. A new start goes on; nothing is written twice.
    """
    made = settings(**SHORT)
    kafka.create_topics(made)
    send(made, stream(200, seed=5))
    logs = [tmp_path / "first", tmp_path / "second", tmp_path / "third"]
    with command(made, logs[0]) as first:
        wait(lambda: caught_up(made), 60)
        (zombie,) = psutil.Process(first.pid).children()
        zombie.suspend()
        send(made, stream(200, seed=6, start_ms=START_MS + 100_000))
        elsewhere = made.model_copy(update={"streams": made.streams.model_copy(update={"port": ports.free()})})
        with command(elsewhere, logs[1]) as second:
            wait(lambda: caught_up(made), 60)
            time.sleep(stopped_s)
            zombie.resume()
            send(made, stream(200, seed=7, start_ms=START_MS + 200_000))  # its first transaction is refused
            assert first.wait(60) > 0
            wait(lambda: second.poll() is not None or caught_up(made), 60)
            ended = logs[:1] if second.poll() is None else logs[:2]
            with command(made, logs[2]) if second.poll() is not None else contextlib.nullcontext():
                wait(lambda: caught_up(made), 60)
    for log in ended:
        said = log.read_text()
        assert "Traceback" not in said, said
        assert "NoneType" not in said, said
        assert len([line for line in said.splitlines() if "slot 0 was fenced" in line]) == 1, said
    assert same_as_offline(made)["samples"] > 100
