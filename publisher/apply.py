"""The publisher role: `updates`, `histories` and `profiles` become Redis rows and index files.

Law: a position is committed only after everything below it is applied, so lag 0 means applied.

One turn of the loop:
    1. take what is there of histories and profiles, and of updates and control
    2. see that Redis is as we left it; if not (emptied, back from an old copy), read again from what it says it holds
    3. histories and profiles: the last record of each user
    4. updates: judge each whole one; rows to Redis, items to the model at hand, a snapshot to index files
    5. let a version that is wholly applied be served, let old ones go
    6. commit

Each step ends by writing down in Redis how far it is. What is written is absolute, never an increment, so a turn that
was cut off is simply done again. One publisher per namespace; a second one would redo the first's writes, not spoil it.
"""

import signal
import threading
import time
from typing import Any

import redis
from confluent_kafka import OFFSET_BEGINNING, KafkaException, Message
from prometheus_client import Counter, Gauge

from contract import crash, health, log
from contract.errors import BadInputError, UnreachableError
from contract.kafka import create_topics
from contract.messages import Served
from contract.redis import connect
from contract.settings import Settings
from contract.updates import Assembler, Update, decode_chunk
from publisher import control
from publisher.feed import Feed
from publisher.indexer import Indexer
from publisher.store import Kind, Store
from publisher.versions import REFUSED, Verdict, expired, freshness, judge, serve, should_serve

KINDS: tuple[Kind, ...] = ("histories", "profiles")
BEAT_MS = 1_000
RETRY_S = 0.5
OLD_COPY_MS = 12 * 3_600_000  # tombstones may be compacted away after a day: a copy this old is filled from scratch

VERSION = Gauge("headrace_publisher_version", "newest version applied")
SEQUENCE = Gauge("headrace_publisher_sequence", "its sequence")
FRESHNESS = Gauge("headrace_publisher_freshness_ms", "click arrival to retrievable, newest update")
APPLIED = Counter("headrace_publisher_updates", "updates judged", ["verdict"])
RECORDS = Counter("headrace_publisher_user_records", "histories and profiles applied", ["topic"])
REFILLS = Counter("headrace_publisher_refills", "times Redis was found emptied or rolled back")


def now_ms() -> int:
    """Wall time."""
    return int(time.time() * 1000)


def run(settings: Settings) -> None:
    """Publish until SIGTERM or SIGINT."""
    log.set_up("publisher", settings.log_level)
    stop = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stop.set())
    publish(settings, stop)


def publish(settings: Settings, stop: threading.Event) -> None:
    """Publish until `stop`; waits for Kafka and Redis to come, and to come back."""
    publisher = Publisher(settings)
    pages = health.serve(settings.publisher.port, publisher.health, settings.pages_host)
    begun = False
    try:
        while not stop.is_set():
            try:
                if not begun:
                    publisher.begin()
                    begun = True
                publisher.turn()
            except (redis.RedisError, UnreachableError, KafkaException, OSError) as error:
                if isinstance(error, KafkaException) and error.args[0].fatal():
                    raise
                log.get().warning("waiting", reason=f"{type(error).__name__}: {error}"[:300])
                begun = False
                stop.wait(RETRY_S)
    finally:
        publisher.close()
        pages.shutdown()
        pages.server_close()


class Publisher:
    """State of the role; everything in it can be had again from Redis, index files and topics."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.names = settings.names
        self.kinds = {self.names.topic(kind): kind for kind in KINDS}
        self.store = Store(connect(settings.redis), self.names)
        self.feed = Feed(settings.kafka, self.names)
        limits = settings.publisher
        self.indexer = Indexer(settings.files, settings.namespace, limits.exact_max_items, limits.overlay_max_items)
        self.applied: dict[str, int] = {}  # as Redis has it
        self.pointer: Served | None = None
        self.fresh: tuple[int, int | None] = (0, None)  # newest click arrival applied, and its freshness
        self.control_from = 0  # next record of control
        self.assembler = Assembler()
        self.half_from: int | None = None  # offset of the first chunk of an update that is not whole yet
        self.update_from = 0  # offset of the first chunk of the newest update
        self.beaten_ms = 0

    # ---- start -------------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Find out what Redis and the index files hold, and read on from there."""
        create_topics(self.settings)
        self.control_from = self.feed.ends()[(self.feed.control_topic, 0)]
        self.pointer = control.pointer_of(self.settings)
        self.indexer.load()
        self._read_from_applied(self.store.applied())

    def _read_from_applied(self, found: dict[str, int]) -> None:
        """Take what Redis says it holds, and read on from there (from less far, where the index files are behind)."""
        self._adopt(found)
        self.fresh = max([self.fresh, *map(self.store.freshness, self._versions())], key=lambda told: told[0])
        if self.pointer is not None:
            self.store.mirror(self.pointer)
        ends, updates = self.feed.ends(), (self.feed.updates_topic, 0)
        starts = {at: self.applied[name] for at in ends if (name := self._name(at)) in self.applied}
        self._forget_foreign({self._name(at): ends[at] for at, start in starts.items() if start > ends[at]})
        starts = {at: start for at, start in starts.items() if self._name(at) in self.applied}
        held = self.indexer.model
        if held is not None and held.offset > ends[updates]:
            held = self.indexer.model = None
        starts[updates] = min(starts[updates], held.offset) if held and updates in starts else OFFSET_BEGINNING
        starts[(self.feed.control_topic, 0)] = self.control_from
        self.feed.open(starts)
        self.assembler, self.half_from = Assembler(), None
        log.get().info("reading", updates=starts[updates], applied=len(self.applied), version=held and held.version)

    def _forget_foreign(self, beyond: dict[str, int]) -> None:
        """Forget what is applied beyond the end of its topic: those records are of another log."""
        gone = list(beyond)
        if "updates" in beyond:
            gone += [f"version:{version}" for version in self._versions()]
        for name in gone:
            log.get().error("redis_ahead_of_topic", name=name, applied=self.applied.pop(name), end=beyond.get(name))
        self.store.forget_applied(gone)

    def _name(self, at: tuple[str, int]) -> str:
        """Field of `applied` for a partition."""
        topic, partition = at
        if topic in self.kinds:
            return f"{self.kinds[topic]}:{partition}"
        return "updates" if topic == self.feed.updates_topic else "control"

    def _adopt(self, found: dict[str, int]) -> None:
        """Take what Redis holds as applied; users' records older than tombstones are kept are read from scratch."""
        if found and now_ms() - (self.store.heartbeat_ms() or 0) > OLD_COPY_MS:
            gone = [name for name in found if name.startswith(KINDS)]
            self.store.forget_applied(gone)
            for kind in KINDS:
                self.store.clear_users(kind)
            found = {name: value for name, value in found.items() if name not in gone}
        self.applied = found

    # ---- one turn ----------------------------------------------------------------------------------------------------

    def turn(self) -> None:
        """One turn of the loop (see the module's docstring)."""
        taken = self.feed.take()  # 1
        due = now_ms() - self.beaten_ms >= BEAT_MS
        if (taken.users or taken.updates or due) and not self._redis_is_as_left():  # 2
            return
        self._apply_users(taken.users)  # 3
        for record in taken.updates:  # 4
            if record.topic() == self.feed.control_topic:
                self._take_pointer(record)
            else:
                self._take_chunk(record)
        self.indexer.turn()
        self._serve_newest()  # 5
        self._let_go()
        if due:
            self.store.beat(now_ms())
            self.beaten_ms = now_ms()
        unfinished = [n for n in (self.half_from, self.indexer.building_from) if n is not None]
        crash.point("publisher.before_commit")
        self.feed.commit(min(unfinished, default=None))  # 6

    def _redis_is_as_left(self) -> bool:
        found = self.store.applied()
        if found == self.applied:
            return True
        log.get().error("redis_rolled_back", held=len(self.applied), found=len(found), next="filled from the topics")
        REFILLS.inc()
        self._read_from_applied(found)
        return False

    def _set_applied(self, values: dict[str, int]) -> None:
        self.applied |= self.store.set_applied(values, self.applied)

    def _versions(self) -> dict[int, int]:
        """Sequence applied of each version that Redis holds."""
        return {int(name[8:]): value for name, value in self.applied.items() if name.startswith("version:")}

    # ---- histories, profiles -----------------------------------------------------------------------------------------

    def _apply_users(self, records: list[Message]) -> None:
        last: dict[Kind, dict[str, bytes | None]] = {kind: {} for kind in KINDS}
        applied: dict[str, int] = {}
        for record in records:
            kind, key = self.kinds[str(record.topic())], record.key()
            applied[f"{kind}:{record.partition()}"] = int(record.offset() or 0) + 1
            if key is not None:
                last[kind][bytes(key).decode("utf-8", "replace")] = record.value()
        for kind, values in last.items():
            if values:
                self.store.put_users(kind, values)
                RECORDS.labels(kind).inc(len(values))
        if applied:
            self._set_applied(applied)

    # ---- updates -----------------------------------------------------------------------------------------------------

    def _take_chunk(self, record: Message) -> None:
        value, offset = record.value(), int(record.offset() or 0)
        if value is None:
            return
        try:
            chunk = decode_chunk(bytes(value))
            if chunk.chunk == 0:
                self.half_from = self.update_from = offset
            update = self.assembler.add(chunk)
        except BadInputError as error:
            log.get().error("refused", reason=str(error), offset=offset)
            APPLIED.labels("broken").inc()
            return  # whoever wrote it: the update that is being put together only fails if a chunk of its own is gone
        if update is not None:
            self.half_from = None
            self._apply_update(update, offset + 1)

    def _apply_update(self, update: Update, offset: int) -> None:
        held = self._versions()
        verdict = judge(held, update.kind, update.version, update.sequence, self.settings.publish.keep_versions)
        APPLIED.labels(verdict.value).inc()
        done = {"updates": max(offset, self.applied.get("updates", 0))}
        rows = 0
        if verdict is Verdict.APPLY:
            rows = self._apply_rows(update, held)
            done[f"version:{update.version}"] = update.sequence
        elif verdict in REFUSED:
            self._refuse(update, verdict, held.get(update.version))
        self.indexer.take(update, self.update_from, offset)
        if verdict is Verdict.APPLY:
            self._tell(update, rows)
        crash.point("publisher.before_applied")
        self._set_applied(done)

    def _apply_rows(self, update: Update, held: dict[int, int]) -> int:
        # Who is deleted is deleted from the versions one could go back to as well.
        gone = [user for section in update.users for user in section.deleted]
        self.store.delete_rows([v for v in held if v < update.version], gone)
        write = self.store.replace_rows if update.kind == "snapshot" else self.store.put_rows
        return write(update.version, update.users, update.manifest.dim)

    def _refuse(self, update: Update, verdict: Verdict, applied: int | None) -> None:
        log.get().error(
            "refused",
            reason=verdict.value,
            version=update.version,
            sequence=update.sequence,
            applied=applied,
            heals="the next snapshot",
        )

    def _tell(self, update: Update, rows: int) -> None:
        done_ms = now_ms()
        self.fresh = freshness(self.fresh, update.manifest.arrival_ms, done_ms)
        freshness_ms = self.fresh[1]
        self.store.put_manifest(update.version, update.sequence, update.manifest, done_ms, freshness_ms)
        VERSION.set(update.version)
        SEQUENCE.set(update.sequence)
        if freshness_ms is not None:
            FRESHNESS.set(freshness_ms)
        log.get().info(
            "applied",
            kind=update.kind,
            version=update.version,
            sequence=update.sequence,
            rows=rows,
            items=sum(len(section.ids) for section in update.items),
            lag=self.feed.updates_behind(),
            freshness_ms=freshness_ms,
        )

    # ---- the served pointer ------------------------------------------------------------------------------------------

    def _take_pointer(self, record: Message) -> None:
        value, self.control_from = record.value(), int(record.offset() or 0) + 1
        if record.key() != control.KEY or value is None:
            return
        if (pointer := control.decode(bytes(value))) is not None:
            self.pointer = pointer
            self.store.mirror(self.pointer)
            log.get().info("served", namespace=self.pointer.namespace, version=self.pointer.version)

    def _serve_newest(self) -> None:
        """Let the newest version that has both its rows in Redis and its index files be served."""
        whole = self._versions().keys() & self.indexer.ready
        if not whole or not should_serve(self.pointer, self.settings.namespace, max(whole)):
            return
        pointer = serve(self.pointer, self.settings.namespace, max(whole), now_ms())
        control.write(self.settings, pointer)
        self.pointer = pointer
        self.store.mirror(pointer)
        log.get().info("cut_over", version=pointer.version, previous=pointer.previous)

    def _let_go(self) -> None:
        """Let old versions expire, in Redis and on disk."""
        served = {self.pointer.version, self.pointer.previous} if self.pointer else set()
        old = expired(self._versions(), served, self.settings.publish.keep_versions)
        if not old:
            return
        self.store.expire(old)
        for version in old:
            del self.applied[f"version:{version}"]
        self.indexer.forget(old)
        log.get().info("expired", versions=",".join(map(str, old)))

    # ---- the rest ----------------------------------------------------------------------------------------------------

    def health(self) -> dict[str, Any]:
        """What /healthz says."""
        held = self.indexer.model
        return {
            "role": "publisher",
            "version": held.version if held else None,
            "sequence": held.sequence if held else None,
            "served": self.pointer.version if self.pointer else None,
            "beat_ms": self.beaten_ms,
        }

    def close(self) -> None:
        """Leave; what is applied but not committed is applied again."""
        self.indexer.close()
        self.feed.close()
        self.store.client.close()
