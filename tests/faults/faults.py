"""The faults. Each acts on a bench, lasts some seconds, and undoes what it did; healing is the stack's own task.

Chances are drawn from the run's seed, so that a seed gives the same faults at the same distances.
"""

import signal
import time
from collections.abc import Callable
from functools import partial

import redis

from headrace.process import wait_until
from tests.faults import damage, full
from tests.faults.bench import Bench
from tests.faults.traffic import MODES

Fault = Callable[[Bench], None]
KILL_POINTS = {
    "streams-0": (
        "streams.produce",
        "streams.before_offsets",
        "streams.before_commit",
        "streams.after_commit",
        "streams.rebuild",
    ),
    "trainer": (
        "trainer.before_write",
        "trainer.before_fsync",
        "trainer.before_rename",
        "trainer.after_rename",
        "trainer.before_publish",
        "trainer.after_publish",
    ),
    "publisher": (
        "publisher.rows",
        "publisher.before_applied",
        "publisher.before_commit",
        "publisher.before_rename",
    ),
}
REACHED_S = 20.0
STOPPED_S = 8.0  # past the session time-out of 6 s


def kill_one(role: str, bench: Bench) -> None:
    """Kill -9 of one worker of a role."""
    bench.kill(bench.draw.choice(bench.fleet.names(role)))


def kill_two(bench: Bench) -> None:
    """Kill -9 of two roles at once, starter and worker, of the servers one at most."""
    names = [n for n in bench.fleet.names() if n != "server-1"]
    bench.kill(*bench.draw.sample(names, 2), whole=True)


def kill_all(bench: Bench) -> None:
    """Kill -9 of every role at once, starter and worker, but for one of the two servers."""
    bench.kill(*(n for n in bench.fleet.names() if n != "server-1"), whole=True)


def kill_point(name: str, point: str, bench: Bench) -> None:
    """Kill a process and let it die once more at a named point."""
    died = bench.fleet.crash_at(name, point, bench.draw.randint(1, 3))
    member = bench.fleet.members[name]
    role = name.split("-", maxsplit=1)[0]
    bench.see_death(point, member, role, lambda: member.deaths() >= died + 2, REACHED_S)


def terminate(bench: Bench) -> None:
    """SIGTERM of a role, which ends in order and is started again."""
    name = bench.draw.choice([n for n in bench.fleet.names() if n != "server-1"])
    bench.fleet.members[name].signal(signal.SIGTERM)


def stop_and_go_on(role: str, bench: Bench) -> None:
    """SIGSTOP past the time-outs, then SIGCONT: what it was doing, somebody else may have done."""
    name = bench.draw.choice(bench.fleet.names(role))
    bench.fleet.pause(name)
    bench.pause(STOPPED_S, STOPPED_S + 2)
    bench.fleet.go_on(name)


def zombie(bench: Bench) -> None:
    """A stopped streams worker whose slot was given to another process wakes up."""
    bench.fleet.pause("streams-0")
    old = bench.fleet.members["streams-0"]
    bench.fleet.replace("streams-0")
    bench.pause(3, 5)
    old.signal(signal.SIGCONT)
    if not wait_until(lambda: old.leash is None or old.leash.poll() is not None, 30):
        bench.note("zombie lives on")
        old.signal(signal.SIGKILL, whole=True)


def broker_killed(bench: Bench) -> None:
    """Kill -9 of the broker; it comes back at once."""
    bench.kill("kafka")
    wait_until(lambda: bench.recoveries.open() == 0, 60)


def broker_away(seconds: float, bench: Bench) -> None:
    """No broker for a while; then all that was held back comes at once, and the live stream goes on."""
    bench.fleet.hold("kafka")
    time.sleep(seconds)
    since = time.monotonic()
    bench.recoveries.measure("kafka", since)
    bench.fleet.release("kafka")
    wait_until(lambda: bench.recoveries.open() == 0, 60)
    bench.measure_catch_up(since)


def redis_killed(bench: Bench) -> None:
    """Kill -9 of Redis; it comes back empty."""
    bench.kill("redis")


def redis_stopped(bench: Bench) -> None:
    """Redis hangs."""
    bench.fleet.pause("redis")
    bench.pause(4, 8)
    bench.fleet.go_on("redis")


def redis_full(bench: Bench) -> None:
    """Redis answers every write with OOM."""
    client = redis.Redis.from_url(bench.settings.redis.url.get_secret_value())
    client.config_set("maxmemory", "1mb")
    bench.pause(3, 6)
    client.config_set("maxmemory", "0")


def redis_rolled_back(bench: Bench) -> None:
    """Redis comes back with a copy of some time ago."""
    client = redis.Redis.from_url(bench.settings.redis.url.get_secret_value())
    client.save()
    bench.pause(3, 6)
    bench.kill("redis")
    wait_until(lambda: bench.fleet.members["redis"].process is not None, 10)
    bench.pause(1, 2)
    (bench.redis_home / "dump.rdb").unlink(missing_ok=True)


def storm(bench: Bench) -> None:
    """Streams workers come and go every few seconds."""
    for slot in (2, 3):
        bench.fleet.add_role("streams", slot)
        bench.pause(1.5, 3)
    bench.kill("streams-3")
    bench.pause(1.5, 3)
    for slot in (2, 3):
        bench.fleet.remove(f"streams-{slot}")
        bench.pause(1, 2)


def misbehave(mode: str, bench: Bench) -> None:
    """The stream misbehaves for a while, and one role is killed meanwhile."""
    bench.feeder.modes[mode] = time.monotonic() + bench.draw.uniform(4, 6)
    bench.pause(1, 3)
    kill_one(bench.draw.choice(("streams", "streams", "trainer", "publisher")), bench)


FAULTS: dict[str, Fault] = {
    **{f"kill_{role}": partial(kill_one, role) for role in ("streams", "trainer", "publisher", "server")},
    "kill_two": kill_two,
    "kill_all": kill_all,
    **{f"at_{point}": partial(kill_point, name, point) for name, points in KILL_POINTS.items() for point in points},
    "terminate": terminate,
    **{f"stop_{role}": partial(stop_and_go_on, role) for role in ("streams", "trainer", "publisher")},
    "zombie": zombie,
    "storm": storm,
    "broker_killed": broker_killed,
    "broker_away_60s": partial(broker_away, 60.0),
    "redis_killed": redis_killed,
    "redis_stopped": redis_stopped,
    "redis_full": redis_full,
    "redis_rolled_back": redis_rolled_back,
    **{mode: partial(misbehave, mode) for mode in MODES},
    **damage.FAULTS,
    **full.FAULTS,
}
