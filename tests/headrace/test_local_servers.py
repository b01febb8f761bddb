"""The local Kafka and Redis: they are real, and they end with whoever holds their leash."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from confluent_kafka.admin import NewTopic

from contract import kafka as edge
from contract import redis as redis_edge
from contract.errors import BadInputError
from contract.settings import Kafka, Settings
from headrace import jars, local_kafka, local_redis, ports
from headrace.process import wait_until
from tests.conftest import leashed


def test_settings_reach_a_real_broker_and_redis(settings: Callable[..., Settings]) -> None:
    """Topics made under one test's prefix are seen, and belong to it alone; Redis answers."""
    mine, other = settings(), settings()
    made = edge.create_topics(mine)
    assert mine.names.topic("clicks") in made
    assert not set(made) & set(edge.create_topics(other))
    assert edge.create_topics(mine) == []
    assert redis_edge.reach(mine.redis).ping()


def test_kafka_keeps_its_topics_across_a_change_of_ports(tmp_path: Path) -> None:
    """A stopped broker that comes back on other ports still holds what was written (taken ports are survived)."""
    for round_ in range(2):
        port = ports.free()
        command = local_kafka.command(tmp_path / "kafka", port, ports.free(taken=[port]))
        with leashed(command, tmp_path / "log", port):
            client = edge.reach(Kafka(bootstrap_servers=f"127.0.0.1:{port}", reach_timeout_ms=20_000))
            if round_ == 0:
                client.create_topics([NewTopic("kept", 3, 1)], operation_timeout=10)["kept"].result(20)
            assert edge.partition_counts(client)["kept"] == 3


def test_a_leash_ends_its_server_when_the_holder_is_killed(tmp_path: Path) -> None:
    """A kill -9 of the process that holds a leash ends the server too: nothing is left behind."""
    port = ports.free()
    command = [sys.executable, "-m", "headrace.leash", *local_redis.command(tmp_path, port)]
    holder = subprocess.Popen(
        [sys.executable, "-c", f"import subprocess, time\nsubprocess.Popen({command!r}, stdin=-1)\ntime.sleep(600)"],
        stdout=subprocess.DEVNULL,
    )
    assert wait_until(lambda: ports.answers(port), 20)
    family = psutil.Process(holder.pid).children(recursive=True)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    gone, left = psutil.wait_procs(family, timeout=20)
    assert len(gone) == 2
    assert not left


def test_jars_that_cannot_be_fetched_name_the_other_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a network the message is one line that names --bootstrap-server, --redis-url and compose."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{ports.free()}")
    with pytest.raises(BadInputError) as said:
        jars.classpath()
    text = str(said.value)
    assert "\n" not in text
    assert all(way in text for way in ("--bootstrap-server", "--redis-url", "docker compose"))
    assert [p for p in (tmp_path / "headrace").iterdir() if p.suffix != ".lock"] == []
