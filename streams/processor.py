"""The transactional batch loop: raw events in; samples, outcomes, counts, histories, dead letters and offsets out.

    consume(N) ─> door ─> core of the partition ─┐ every commit_interval_ms, catching up every CATCH_UP_S
                                                 └─> one transaction, offsets with metadata inside

All that a partition needs to go on is in its committed offsets' metadata and in the logs (JOIN.md, Commit and re-read),
so after any failure the state is dropped and built anew.
"""

import contextlib
import gc
import time
from threading import Event
from typing import Any

from confluent_kafka import KafkaException, TopicPartition

from contract import crash, log
from contract.errors import RefusedError, UnreachableError
from contract.settings import Settings
from streams import course, metrics
from streams.deadline import Deadline
from streams.feed import Feed
from streams.fenced import fenced, is_fatal
from streams.inputs import Inputs
from streams.join import Batch, Commit, Join, Rules
from streams.report import Report
from streams.restore import Interrupted, PoisonError, Restorer
from streams.transaction import AbortedError, Part, Transactions

MAX_EVENTS = 100_000  # of one transaction: bounds its memory and its time
CATCH_UP_S = 2.0  # between transactions while more is unread than one holds: each item and user is written less often
COLLECT_EVERY = (
    200_000,
    20,
    50,
)  # of the cycle collector: the join keeps much, and no cycles
CLOSE_S = 20.0  # of leaving the group, the last transaction in it
MAX_WAIT_S = 0.1  # for records, so that SIGTERM and time-outs are seen
MIN_WAIT_S = 0.005


def rules_of(settings: Settings) -> Rules:
    """Plain arguments of the core."""
    join, history = settings.join, settings.history
    return Rules(
        window_ms=join.window_ms,
        lateness_ms=join.lateness_ms,
        max_skew_ms=join.max_skew_ms,
        history_length=history.length,
        shown_exposures=history.shown_exposures,
        half_life_ms=settings.popularity.half_life_ms,
        clicks_only=join.mode == "clicks-only",
    )


class Processor:
    """One worker of the streams role: `run` blocks until `ending` is set."""

    def __init__(self, settings: Settings, partitions: int, slot: int, ending: Event) -> None:
        self._names, self._streams, self._slot, self._ending = settings.names, settings.streams, slot, ending
        self._rules = rules_of(settings)
        self._joins: dict[int, Join] = {}
        self._kept: dict[int, Join] = {}  # of revoked partitions: good while nobody else moves them on
        self._last: dict[int, Commit] = {}  # what the group has committed
        self._dirty: set[int] = set()
        self._idle: dict[int, tuple[bool, bool, int]] = {}  # last idle flags told, and events fed until then
        self._fed: dict[int, int] = {}
        self._events = 0
        self._catch_up_s = min(CATCH_UP_S, settings.streams.transaction_timeout_ms / 4_000)
        self._last_commit_s = time.monotonic()
        self._report = Report()
        self._inputs = Inputs(settings, slot, ending, self._revoked, self._lost)
        self._course = course.Course(course.load(settings.files))
        self._feed = Feed(
            self._inputs,
            partitions,
            settings.join.max_skew_ms,
            settings.join.max_ahead_ms,
            self._report.count,
            self._course,
        )
        self._transactions = Transactions(settings, slot, ending)
        self._restorer = Restorer(
            settings.kafka,
            self._names,
            self._rules,
            self._feed.exposures,
            self._feed.clicks,
            self._feed.poison.offsets,
            self._inputs.keep_alive,
        )

    def run(self) -> None:
        """Work until `ending` is set; raises on what a restart or a person must heal, FencedError when replaced."""
        gc.set_threshold(*COLLECT_EVERY)
        try:
            self._transactions.open()
            self._inputs.open()
            while not self._ending.is_set():
                self._turn()
            if not self._inputs.unsettled:
                self._commit()
        except (AbortedError, KafkaException) as error:
            if not self._ending.is_set():
                raise (fenced(error, self._slot) or error) from error.__cause__
            log.get().warning("ended without Kafka; uncommitted events will be read again", cause=str(error))
            self._joins.clear()
        finally:
            self._dirty.clear()
            with Deadline("closing", CLOSE_S):
                self._inputs.close()

    def health(self) -> dict[str, Any]:
        """Answer of /healthz."""
        return {
            "partitions": sorted(self._joins),
            "settled": not self._inputs.unsettled,
            "since_commit_s": round(time.monotonic() - self._last_commit_s, 3),
        }

    def lag(self) -> list[dict[str, Any]]:
        """Answer of /lag: a row for each partition that this worker reads."""
        return [
            {
                "topic": self._names.topic(source),
                "partition": partition,
                "committed": self._inputs.committed[(source, partition)].offset,
                "lag": lag,
            }
            for (source, partition), lag in sorted(self._inputs.lag().items())
        ]

    def _turn(self) -> None:
        interval_s = self._streams.commit_interval_ms / 1000
        wait_s = self._last_commit_s + interval_s - time.monotonic()
        try:
            if self._inputs.unsettled:
                with contextlib.closing(self._restorer):
                    self._settle()
            elif self._inputs.fetch(self._streams.batch_records, max(MIN_WAIT_S, min(wait_s, MAX_WAIT_S))):
                self._work()
                if self._events >= MAX_EVENTS or self._is_due(time.monotonic() - self._last_commit_s, interval_s):
                    self._commit()
        except AbortedError as error:
            log.get().warning("aborted", cause=str(error))
            self._start_over()
        except PoisonError as poison:
            self._feed.poison.failed(poison)
            self._start_over()
        except Interrupted:
            pass  # the partitions moved, or it is the end: the loop sees which

    def _is_due(self, passed_s: float, interval_s: float) -> bool:
        """Whether a transaction is due: each interval, but later while more is unread than was read since the last."""
        if passed_s < interval_s:
            return False
        return passed_s >= self._catch_up_s or self._inputs.unread() <= self._events

    def _work(self) -> None:
        for partition, join in self._joins.items():
            events = self._feed.feed(join, partition)
            if events:
                self._events += events
                self._fed[partition] = self._fed.get(partition, 0) + events
                self._dirty.add(partition)

    # ---- committing

    def _commit(self, *, rebalancing: bool = False) -> None:
        """Write one transaction, or none when nothing moved; the next is due an interval after this one's end.

        1. idle advances
        2. what each partition has to write, and its offsets
        3. the transaction
        4. remember it
        Raises AbortedError when nothing of it happened.
        """
        started_s = self._last_commit_s = time.monotonic()
        if not rebalancing:
            self._advance()  # 1
        parts, commits, offsets = {}, {}, []
        for partition in sorted(self._dirty & self._joins.keys()):  # 2
            join = self._joins[partition]
            parts[partition] = Part(join.take(), *self._feed.take(partition))
            commits[partition] = join.commit()
            offsets += self._offsets(partition, commits[partition])
        self._dirty.clear()
        events, self._events = self._events, 0
        if not offsets and not any(_writes(part.batch) for part in parts.values()):
            return
        records = self._transactions.commit(self._inputs.consumer, parts, offsets)  # 3
        self._last.update(commits)  # 4
        self._inputs.committed_now(offsets)
        self._last_commit_s = time.monotonic()
        self._report.committed(parts.values(), events, records, self._last_commit_s - started_s)
        self._report.summarise(self._joins, self._inputs.lag)

    def _advance(self) -> None:
        """Tell each core which of its inputs are silent, when that changed or something was read since."""
        silent = self._inputs.silent()
        for partition, join in self._joins.items():
            if not self._course.is_free(partition):
                continue
            exposures = self._rules.clicks_only or ("exposures", partition) in silent
            clicks = ("clicks", partition) in silent
            before = self._idle.get(partition, (False, False, 0))
            now = (exposures, clicks, self._fed.get(partition, 0))
            if now != before and (now[:2] != before[:2] or exposures or clicks):
                self._idle[partition] = now
                join.idle(exposures=exposures, clicks=clicks)
                self._dirty.add(partition)

    def _offsets(self, partition: int, commit: Commit) -> list[TopicPartition]:
        """Offsets of a partition that are not committed yet; those of the join's inputs always go together."""
        topic, offsets = self._names.topic, []
        if commit != self._last.get(partition):
            if not self._rules.clicks_only:
                offsets = [
                    TopicPartition(topic("exposures"), partition, commit.exposures_position, commit.exposures_metadata)
                ]
            offsets.append(TopicPartition(topic("clicks"), partition, commit.clicks_position, commit.clicks_metadata))
        for source in ("ranking-drops", "profiles"):
            position = self._feed.positions.get((source, partition))
            if position is not None and position != self._inputs.committed[(source, partition)].offset:
                offsets.append(TopicPartition(topic(source), partition, position))
        return offsets

    # ---- partitions

    def _settle(self) -> None:
        """State of every assigned partition: what was kept, if nobody moved it on meanwhile, else from the logs."""
        try:
            for partition in self._inputs.partitions():
                if partition in self._joins:
                    continue
                commit = self._commit_of(partition)
                kept = self._kept.pop(partition, None)
                if kept is not None and commit is not None and commit == self._last.get(partition):
                    self._joins[partition] = kept
                else:
                    self._rebuild(partition, commit)
        except (KafkaException, UnreachableError) as error:
            if isinstance(error, KafkaException) and is_fatal(error.args[0]):
                raise
            log.get().warning("waiting for Kafka", text=str(error))
            self._ending.wait(0.5)
            self._inputs.keep_alive()
            return
        self._kept.clear()
        self._inputs.go()
        self._last_commit_s = time.monotonic()
        log.get().info("assigned", partitions=",".join(map(str, sorted(self._joins))))

    def _rebuild(self, partition: int, commit: Commit | None) -> None:
        started_s = time.monotonic()
        crash.point("streams.rebuild")
        join = self._restorer.restore(partition, commit)
        self._joins[partition] = join
        self._course.begin(partition, join.position("exposures"), join.position("clicks"))
        self._idle.pop(partition, None)
        self._last.pop(partition, None)
        if commit is not None:
            self._last[partition] = commit
        took_s = time.monotonic() - started_s
        metrics.REBUILD_SECONDS.observe(took_s)
        log.get().info("rebuilt", partition=partition, seconds=round(took_s, 3), first=commit is None)

    def _commit_of(self, partition: int) -> Commit | None:
        """What the group has committed for a partition; None at the first start."""
        found = [self._inputs.committed[(source, partition)] for source in self._inputs.joined]
        if all(at.offset < 0 for at in found):
            return None
        if any(at.offset < 0 or not at.metadata for at in found):
            raise RefusedError(
                f"partition {partition}: offsets of group {self._names.group('streams')} were set by hand, and events "
                "would be applied twice: start a new namespace (--namespace NAME) that replays the raw topics"
            )
        *before, clicks = found
        exposures_position, exposures_metadata = (before[0].offset, before[0].metadata) if before else (0, "")
        return Commit(exposures_position, exposures_metadata or "", clicks.offset, clicks.metadata or "")

    def _revoked(self) -> None:
        """Partitions go: commit what was read, inside the callback, and keep the state in case they come back."""
        if self._joins and not self._inputs.unsettled:
            try:
                self._commit(rebalancing=True)
            except AbortedError as error:
                log.get().warning("aborted", cause=str(error))
                self._joins.clear()
        self._kept.update(self._joins)
        self._forget()

    def _lost(self) -> None:
        """Partitions are gone already: what was not committed never happened."""
        self._kept.clear()
        self._forget()

    def _start_over(self) -> None:
        """Drop all state and begin again at the committed offsets."""
        self._kept.clear()
        self._forget()
        self._inputs.restart()

    def _forget(self) -> None:
        self._joins.clear()
        self._dirty.clear()
        self._feed.clear()
        self._events = 0


def _writes(batch: Batch) -> bool:
    rows = (batch.samples, batch.outcomes, batch.dead_letters, batch.histories, batch.popularity)
    return any(rows) or batch.marker is not None
