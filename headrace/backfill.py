"""`headrace replay --as NAME`: run a second namespace beside the live one until it has caught up.

1. plan: which records, and where they stop (streams.backfill); without --execute that is all
2. topics, the plan's file, the offsets it starts from, the model it starts from
3. streams, trainer and publisher of that namespace as processes of their own, at a lower priority
4. until all is applied, learned and published; with --follow until Ctrl-C
5. stop them; compare what came out with the namespace that was replayed

The same command once more goes on where it was. While the live namespace's own lag grows look after look, streams of
the new one is stopped; what it has committed stays.
"""

import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import psutil
from msgspec import structs

from contract.errors import RefusedError, UnreachableError
from contract.settings import Settings, environment_of
from headrace import ports, stack
from headrace.process import STACK_VARIABLE, of_stack, spawn, stop
from headrace.stack import ROLE_GRACE_S, Service
from headrace.supervisor import Child
from streams.course import Plan
from streams.lag import Row

ROLES = {"streams": "streams.port", "trainer": "train.port", "publisher": "publisher.port"}
NICE = 10
TICK_S = 0.2
LOOK_S = 2.0
TRIES = 5
SLOW_LOOKS = 4
STREAMS_EVENTS_S = 50_000  # what one core did in benchmarks, rounded down; the slower of the two counts
LEARNED_SAMPLES_S = 5_000
Progress = Callable[[int, int], object]
Say = Callable[[str], object]


class Estimate(NamedTuple):
    """What a dry run says."""

    events: dict[str, int]
    silent_events: int
    samples: int | None  # about as many as the namespace that is replayed has in that span
    seconds: float


def namespaced(settings: Settings, name: str) -> Settings:
    """Settings of the roles of another namespace on this machine: the same, on ports of their own."""
    groups: dict[str, object] = {}
    taken: list[int] = []
    for dotted in ROLES.values():
        group, _, field = dotted.partition(".")
        taken.append(ports.free(taken=taken))
        groups[group] = getattr(settings, group).model_copy(update={field: taken[-1]})
    return settings.model_copy(update={"namespace": name, **groups})


def stack_id(settings: Settings) -> str:
    """What the processes of a namespace's replay carry in their environment."""
    return f"replay-{settings.names.prefix}{settings.namespace}-{settings.files.resolve()}"


def events_of(plan: Plan) -> dict[str, int]:
    """Records that are applied, by raw topic (with markers of transactions, where there are any)."""
    ends = plan.stops or plan.ends
    return {s: sum(e - b for b, e in zip(plan.starts[s], ends[s], strict=True)) for s in plan.starts}


def estimate(settings: Settings, plan: Plan) -> Estimate:
    """How much a plan reads, and how long that takes at least."""
    from headrace.backfill_compare import count_samples  # noqa: PLC0415  (librdkafka: `--help` does without)

    events = events_of(plan)
    silent = sum(b - a for s in plan.starts for a, b in zip(plan.needed[s], plan.starts[s], strict=True))
    whole = sum(sum(ends) for ends in plan.ends.values())
    samples = round(count_samples(settings) * sum(events.values()) / whole) if whole else 0
    seconds = (sum(events.values()) + 2 * silent) / STREAMS_EVENTS_S
    return Estimate(events, silent, samples, round(max(seconds, samples / LEARNED_SAMPLES_S), 1))


def settled(settings: Settings, plan: Plan) -> Plan:
    """Give the plan of a namespace: the one it has, if that asks for the same, or is now to follow; else the new one.

    Raises RefusedError for a namespace that is there and was not made by the same request.
    """
    from contract import kafka  # noqa: PLC0415
    from streams import course  # noqa: PLC0415

    way_out = (
        f"choose another name (`headrace replay --as NAME`), or remove it first (`headrace drop {settings.namespace}`)"
    )
    found = course.load(settings.files)
    if found is not None:
        asked = ["source", "since_ms", "from_version"]
        asked += ["until_ms"] if plan.until_ms is not None else []
        asked += ["follow"] if found.follow else []
        if other := [name for name in asked if getattr(found, name) != getattr(plan, name)]:
            raise RefusedError(f"namespace {settings.namespace} is a replay with another {', '.join(other)}: {way_out}")
        if plan.follow and not found.follow:  # it stopped, and is to follow from there on
            return structs.replace(found, follow=True, until_ms=None, stops={}, advances=plan.advances, ends=plan.ends)
        return found
    counts = kafka.partition_counts(kafka.reach(settings.kafka))
    if settings.names.topic("samples") in counts:
        raise RefusedError(
            f"namespace {settings.namespace} has read the raw topics already, and rewinding its groups would apply "
            f"events twice: replay them into a new one beside it, and promote that; {way_out}"
        )
    return plan


def execute(settings: Settings, plan: Plan, say: Say, progress: Progress) -> None:
    """Run a namespace's roles until it has caught up, or with `follow` until Ctrl-C; they are stopped at the end.

    Raises UnreachableError when a role keeps ending; what was done stays, and the same command goes on from there.
    """
    from contract.kafka import create_topics  # noqa: PLC0415
    from headrace.backfill_model import start_from  # noqa: PLC0415
    from streams import backfill, course  # noqa: PLC0415

    if stack.is_supervised(settings.files):
        raise RefusedError(f"a replay into {settings.namespace} runs already: Ctrl-C there ends it")
    with stack.supervising(settings.files):
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: nothing is left half done
        stop(of_stack(stack_id(settings)), ROLE_GRACE_S)  # of a replay that was killed
        create_topics(settings)
        if course.load(settings.files) != plan:
            course.save(settings.files, plan)
        backfill.seed(settings, plan)
        if plan.from_version is not None:
            start_from(settings, plan.source, plan.from_version)
        with ExitStack() as ending:
            fleet = Fleet(settings)
            ending.callback(fleet.stop)
            Watchman(settings, plan, fleet, say, progress).run()


class Fleet:
    """The processes of one namespace."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.paused = settings, set[str]()
        command = [sys.executable, "-m", "headrace", "run"]
        self.children = [Child(Service(role, [*command, role])) for role in ROLES]

    def tick(self, now: float) -> None:
        """Start what is not there and not paused; UnreachableError for what keeps ending."""
        for child in self.children:
            child.reap(now)
            if child.failures >= TRIES:
                raise UnreachableError(
                    f"{child.service.name} of {self.settings.namespace} keeps ending (exit "
                    f"{child.record.last_exit}): see {self.log(child)}"
                )
            if child.process is None and now >= child.next_start and child.service.name not in self.paused:
                self._start(child, now)

    def _start(self, child: Child, now: float) -> None:
        environment = {**environment_of(self.settings), STACK_VARIABLE: stack_id(self.settings)}
        child.process = spawn(child.service.command, self.log(child), environment)
        child.started = now
        psutil.Process(child.process.pid).nice(NICE)

    def log(self, child: Child) -> Path:
        """Log of a role; it goes with the namespace."""
        return self.settings.files / "logs" / f"{child.service.name}.log"

    def pause(self, role: str) -> None:
        """Stop a role until `resume`."""
        self.paused.add(role)
        self._stop([child for child in self.children if child.service.name == role])

    def resume(self, role: str) -> None:
        """Let a role start again."""
        self.paused.discard(role)

    def stop(self) -> None:
        """Stop all, each in its own time."""
        self._stop(self.children)

    def _stop(self, children: Sequence[Child]) -> None:
        running = [child for child in children if child.process is not None and child.process.poll() is None]
        stop([psutil.Process(child.process.pid) for child in running if child.process is not None], ROLE_GRACE_S)
        for child in children:
            if child.process is not None:
                child.process.wait()
            child.process, child.next_start = None, 0.0


class Watchman:
    """Looks how far a namespace is, and that it starves nobody."""

    def __init__(self, settings: Settings, plan: Plan, fleet: Fleet, say: Say, progress: Progress) -> None:
        self.settings, self.plan, self.fleet, self.say, self.progress = settings, plan, fleet, say, progress
        self.live = settings.model_copy(update={"namespace": plan.source})
        self.live_lags: list[int] = []
        self.calm_s = max(settings.publish.max_wait_ms, settings.train.max_wait_ms) / 1000 + 1.0
        if plan.follow:
            self.calm_s = max(self.calm_s, settings.join.idle_timeout_ms / 1000 + 1.0)

    def run(self) -> None:
        """Until nothing is left to do for a while; with `follow` for ever."""
        looked, calm_since, said = 0.0, time.monotonic(), False
        whole = max(1, sum(events_of(self.plan).values()))
        while True:
            now = time.monotonic()
            self.fleet.tick(now)
            if now - looked >= LOOK_S:
                left, behind = self.left()
                self.progress(min(whole, max(0, whole - left)), whole)
                self.give_way()
                looked = time.monotonic()
                if left or behind or not self.is_served():
                    calm_since = looked
                if looked - calm_since >= self.calm_s:
                    if not self.plan.follow:
                        return
                    if not said:
                        self.say(f"{self.settings.namespace} has caught up and follows; Ctrl-C ends that")
                        said = True
            time.sleep(TICK_S)

    def left(self) -> tuple[int, int]:
        """Raw events that are still to be applied, and records that the other groups have not read."""
        from streams import groups  # noqa: PLC0415

        group = self.settings.names.group("streams")
        rows = groups.lag(self.settings)
        joined = sum(self._left_of(row) for row in rows if row.group == group)
        return joined, sum(row.lag for row in rows if row.group != group)

    def _left_of(self, row: Row) -> int:
        source = row.topic.removeprefix(self.settings.names.prefix)
        if source not in self.plan.starts:
            return row.lag if source.startswith(f"{self.settings.namespace}.") else 0
        start = self.plan.starts[source][row.partition]
        at = max(start, row.committed or 0)
        if self.plan.stops:
            return max(0, self.plan.stops[source][row.partition] - at)
        return row.lag if at < row.end else 0

    def is_served(self) -> bool:
        """Whether a version of it stands whole in Redis and on disk, so that it can be promoted."""
        from headrace.namespaces import whole_versions  # noqa: PLC0415

        return bool(whole_versions(self.settings))

    def give_way(self) -> None:
        """Stop reading while the live namespace, which works, falls behind further and further."""
        from streams import groups  # noqa: PLC0415

        group = self.live.names.group("streams")
        rows = [row for row in groups.lag(self.live) if row.group == group]
        self.live_lags.append(sum(row.lag for row in rows))
        last = self.live_lags = self.live_lags[-SLOW_LOOKS:]
        name = self.settings.namespace
        if "streams" in self.fleet.paused:
            if last[-1] == 0 or falls(last):
                self.fleet.resume("streams")
                self.say(f"{self.plan.source} keeps up again: {name} goes on")
        elif grows(last):
            self.fleet.pause("streams")
            self.say(f"{self.plan.source} falls behind ({last[-1]:,} events): {name} waits")
            self.live_lags = []


def grows(lags: Sequence[int]) -> bool:
    """Whether every look saw more lag than the one before."""
    return len(lags) >= SLOW_LOOKS and all(b > a for a, b in pairwise(lags))


def falls(lags: Sequence[int]) -> bool:
    """Whether no look saw more lag than the one before; the live namespace may also be stopped for good."""
    return len(lags) >= SLOW_LOOKS and all(b <= a for a, b in pairwise(lags))
