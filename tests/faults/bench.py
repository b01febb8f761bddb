"""One stack under a known stream: what faults work on, and the account that a run gives of itself."""

import contextlib
import random
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from contract import kafka
from contract.settings import Settings, load
from contract.topics import TOPICS
from headrace import local_kafka, local_redis, ports
from headrace.process import wait_until
from tests.faults.feeder import Feeder
from tests.faults.fleet import Fleet, Member
from tests.faults.prober import Prober
from tests.faults.recovery import Recoveries
from tests.faults.traffic import Traffic

PARTITIONS = 4
SERVERS = 2
WORKERS = 2
DISK_MB = 512
BORDER_AFTER_S = 15  # the event day ends so long after the stream begins
DAY_MS = 86_400_000
SERVED_S = 90.0
SEGMENT_MS = "60000"  # after which compaction may take what a later record of the key has replaced
CAUGHT_UP_S = 120.0
SETTINGS = {
    "kafka.partitions": PARTITIONS,
    "join.window_ms": 20_000,
    "join.lateness_ms": 4_000,
    "join.max_skew_ms": 2_000,
    "join.idle_timeout_ms": 1_000,
    "join.max_ahead_ms": 10_000,
    "history.length": 10,
    "streams.session_timeout_ms": 6_000,
    "train.max_wait_ms": 200,
    "train.checkpoint_interval_ms": 1_000,
    "full.min_samples": 100,
    "gate.min_samples": 300,
    "publish.interval_ms": 1_000,
    "publish.max_wait_ms": 1_000,
    "publish.snapshot_deltas": 8,
    "server.degraded_after_ms": 5_000,
}


class Bench:
    """All that a fault may reach."""

    def __init__(self, settings: Settings, home: Path, seed: int, rate: float, *, is_tmpfs: bool) -> None:
        self.settings, self.home, self.is_tmpfs = settings, home, is_tmpfs
        self.draw = random.Random(seed)
        self.fleet = Fleet(settings, home)
        begins_ms = time.time_ns() // 1_000_000
        behind_ms = begins_ms % DAY_MS + BORDER_AFTER_S * 1_000
        traffic = Traffic(seed, PARTITIONS, settings.join.lateness_ms, behind_ms)
        self.feeder = Feeder(settings, traffic, rate)
        self.prober = Prober(settings.server.port)
        self.recoveries = Recoveries(settings, PARTITIONS)
        self.notes: Counter[str] = Counter()
        self.catch_ups: list[float] = []  # times the live rate

    @property
    def redis_home(self) -> Path:
        """Directory of the Redis."""
        return self.home / "redis"

    def pause(self, least_s: float, most_s: float) -> None:
        """Let the stack run for a while."""
        time.sleep(self.draw.uniform(least_s, most_s))

    def kill(self, *names: str, whole: bool = False) -> None:
        """Kill -9 members at once and measure how long each role takes to work again, told apart by `whole`.

        A server is killed only while the other one serves: both down at once is no fault that two are to survive.
        """
        if any(name.startswith("server") for name in names):
            wait_until(lambda: not any(one.role.startswith("server") for one in self.recoveries.waiting()), SERVED_S)
        logs = {name: self.fleet.members[name].log for name in names}
        sizes = {name: log for name, log in logs.items() if name.startswith("server")}
        since = time.monotonic()
        for role in {name.split("-")[0] for name in names} - {"server"}:
            self.recoveries.measure(role, since, whole=whole)
        for log in sizes.values():
            self.recoveries.measure("server", since, log, whole=whole)
        self.fleet.kill(*names, whole=whole)

    def measure_catch_up(self, since: float) -> None:
        """How many times faster than the live stream streams commits until it has caught up."""
        live_per_s = self.feeder.per_s("clicks")
        found = self.recoveries.catch_up(since, lambda: self.feeder.sent["clicks"], live_per_s, CAUGHT_UP_S)
        if found is None:
            self.note("not caught up")
        else:
            self.catch_ups.append(found / live_per_s)

    def see_death(self, point: str, member: Member, counted: str, reached: Callable[[], bool], limit_s: float) -> None:
        """Wait until a process has died at a point; count the kill and measure its role's recovery, or note it."""
        if wait_until(reached, limit_s):
            self.fleet.kills[counted] += 1
            self.recoveries.measure(member.name.split("-", maxsplit=1)[0], time.monotonic())
        else:
            member.crash_point.unlink(missing_ok=True)
            self.note(f"not reached: {point}")

    def note(self, text: str) -> None:
        """Remember something that happened, for the account."""
        self.notes[text] += 1


class Disk(NamedTuple):
    """Where a run keeps its files, and whether it is a small file system of its own."""

    home: Path
    is_tmpfs: bool


@contextlib.contextmanager
def disk(home: Path) -> Iterator[Disk]:
    """A small tmpfs where mounting is allowed; else a plain directory."""
    home.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(home)]
    mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        yield Disk(home, mounted)
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(home)], check=True)


@contextlib.contextmanager
def running(home: Path, seed: int, rate: float, *, is_tmpfs: bool) -> Iterator[Bench]:
    """A stack that serves a version under load; everything is gone at the end."""
    taken: list[int] = []
    for _ in range(7):
        taken.append(ports.free(taken=taken))
    kafka_port, controller, redis_port, *own = taken
    named = dict(zip(("streams.port", "train.port", "publisher.port", "server.port"), own, strict=True))
    (home / "files").mkdir(parents=True, exist_ok=True)
    settings = load(
        {
            **SETTINGS,
            **named,
            "data_dir": home / "files",
            "kafka.bootstrap_servers": f"127.0.0.1:{kafka_port}",
            "redis.url": f"redis://127.0.0.1:{redis_port}/0",
        }
    )
    bench = Bench(settings, home, seed, rate, is_tmpfs=is_tmpfs)
    fleet = bench.fleet
    try:
        fleet.add("kafka", local_kafka.command(home / "kafka", kafka_port, controller), kafka_port)
        fleet.add("redis", local_redis.command(bench.redis_home, redis_port), redis_port)
        kafka.create_topics(settings)
        _compact_soon(settings)
        fleet.watch()
        for role, slots in (("streams", WORKERS), ("trainer", 1), ("publisher", 1), ("server", SERVERS)):
            for slot in range(slots):
                fleet.add_role(role, slot)
        bench.feeder.start()
        bench.recoveries.start()
        _wait_for_answers(bench)
        yield bench
    finally:
        bench.prober.stop()
        bench.recoveries.stop()
        fleet.stop()


def _compact_soon(settings: Settings) -> None:
    """Let the compacted topics lose their older records within a run of some minutes, as they do within a day."""
    client, changes = kafka.admin(settings.kafka), []
    for topic in TOPICS:
        if topic.compacted:
            entry = ConfigEntry("segment.ms", SEGMENT_MS, incremental_operation=AlterConfigOpType.SET)
            name = settings.names.topic(topic.name)
            changes.append(ConfigResource(ResourceType.TOPIC, name, incremental_configs=[entry]))
    for future in client.incremental_alter_configs(changes).values():
        future.result(10)


def _wait_for_answers(bench: Bench) -> None:
    """Wait until both servers answer from a version: what fails before is no fault's doing."""
    logs = [bench.fleet.members[name].log for name in bench.fleet.names("server")]

    def all_serve() -> bool:
        return all(log.exists() and b"event=serving" in log.read_bytes() for log in logs)

    if not wait_until(all_serve, SERVED_S):
        tails = "\n".join(f"--- {name}\n{bench.fleet.tail(name)}" for name in bench.fleet.names())
        raise RuntimeError(f"no version was served within {SERVED_S:.0f} s\n{tails}")
    bench.prober.start()
