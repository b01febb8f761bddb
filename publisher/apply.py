"""The publisher role: `updates`, `histories` and `profiles` become Redis rows and index files.

Law: a position is committed only after everything below it is applied, so lag 0 means applied.

One turn of the loop:
    1. take what is there of histories and profiles, and of updates and control
    2. see that Redis is as we left it; if not (emptied, back from an old copy), read again from what it says it holds
    3. histories and profiles: the last record of each user
    4. updates: judge each whole one; rows to Redis, items to the model at hand, a snapshot to index files
    5. write down in Redis how far that is, then commit
    6. let a version that is wholly applied be served

What is written is absolute, never an increment, so a turn that was cut off is simply done again. One publisher per
namespace; a second one would redo the first one's writes, not spoil them.
"""

import contextlib
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import redis
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition
from prometheus_client import Counter, Gauge

from contract import health, log
from contract.errors import BadInputError, UnreachableError
from contract.kafka import END_OF_PARTITION, admin, consumer, create_topics, end_offsets, partition_counts
from contract.messages import Served
from contract.redis import connect
from contract.settings import Settings
from contract.updates import Assembler, Update, decode_chunk
from publisher import control, index_files, model
from publisher.model import Model
from publisher.store import Kind, Store
from publisher.versions import REFUSED, Verdict, expired, judge, serve, should_serve

KINDS: tuple[Kind, ...] = ("histories", "profiles")
USER_RECORDS = 5_000
UPDATE_RECORDS = 16
POLL_S = 0.05
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
    pages = health.serve(settings.publisher.port, publisher.health)
    try:
        begun = False
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
        self.topics = {self.names.topic(kind): kind for kind in KINDS}
        self.updates_topic, self.control_topic = self.names.topic("updates"), self.names.topic("control")
        self.store = Store(connect(settings.redis), self.names)
        self.users: Consumer | None = None
        self.updates: Consumer | None = None
        self.builder = ThreadPoolExecutor(1, "index")
        self.building: Future[Model] | None = None
        self.built_from: int | None = None  # offset of the update that is being built
        self.backlog: list[tuple[Update, int]] = []  # updates that came meanwhile, with the offset after each
        self.applied: dict[str, int] = {}
        self.model: Model | None = None
        self.ready: set[int] = set()  # versions that have index files
        self.unsaved = 0  # items changed since the newest index files
        self.pointer: Served | None = None
        self.assembler = Assembler()
        self.half_from: int | None = None  # offset of the first chunk of an update that is not whole yet
        self.update_from = 0  # offset of the first chunk of the newest update
        self.committed: dict[tuple[str, int], int] = {}
        self.beaten_ms = 0
        self.cleared = False

    # ---- start -------------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Find out what Redis and the index files hold, and read on from there."""
        settings = self.settings
        create_topics(settings)
        if not self.cleared:
            index_files.clear_interrupted(settings.files)
            self.cleared = True
        self.pointer = control.pointer_of(settings)
        self._adopt(self.store.applied())
        self._wait_for_build()
        if self.model is None:
            self.model, refused = index_files.newest(settings.files, settings.namespace)
            for reason in refused:
                log.get().error("index_refused", reason=reason)
        self.ready = {version for version, _ in index_files.written(settings.files)}
        if self.pointer is not None:
            self.store.mirror(self.pointer)
        self._read_from_applied()

    def _read_from_applied(self) -> None:
        client = admin(self.settings.kafka)
        counts = partition_counts(client)
        user_parts = [TopicPartition(t, p) for t in self.topics for p in range(counts[t])]
        ends = end_offsets(client, [*user_parts, TopicPartition(self.updates_topic, 0)])
        for part in user_parts:
            part.offset = self._start(f"{self.topics[part.topic]}:{part.partition}", ends[(part.topic, part.partition)])
        start = self._start("updates", ends[(self.updates_topic, 0)])
        if self.model is None or self.model.offset > ends[(self.updates_topic, 0)]:
            self.model, start = None, OFFSET_BEGINNING
        elif start != OFFSET_BEGINNING:
            start = min(start, self.model.offset)
        self._close_consumers()
        group = self.names.group("publisher")
        self.users = consumer(self.settings.kafka, group)
        self.users.assign(user_parts)
        # Chunks are large: what waits in memory is bounded by bytes.
        self.updates = consumer(self.settings.kafka, group, queued_max_messages_kbytes=32_768)
        self.updates.assign(
            [TopicPartition(self.updates_topic, 0, start), TopicPartition(self.control_topic, 0, OFFSET_BEGINNING)]
        )
        self.assembler, self.half_from = Assembler(), None
        self.committed = {}
        log.get().info("reading", updates=start, applied=len(self.applied), version=self.model and self.model.version)

    def _start(self, name: str, end: int) -> int:
        position = self.applied.get(name, OFFSET_BEGINNING)
        if position > end:
            log.get().error("redis_ahead_of_topic", name=name, position=position, end=end, reading="all of it again")
            return OFFSET_BEGINNING
        return position

    # ---- one turn ----------------------------------------------------------------------------------------------------

    def turn(self) -> None:
        """One turn of the loop (see the module's docstring)."""
        assert self.users is not None  # noqa: S101  (begin() came first)
        assert self.updates is not None  # noqa: S101
        user_records = _records(self.users.consume(USER_RECORDS, POLL_S))
        update_records = _records(self.updates.consume(UPDATE_RECORDS, POLL_S))
        if (user_records or update_records or self._beat_is_due()) and not self._redis_is_as_left():
            return
        positions = self._apply_users(user_records)
        for record in update_records:
            if record.topic() == self.control_topic:
                self._take_pointer(record)
            else:
                self._take_chunk(record)
        if positions:
            self._set_applied(positions)
        self._take_built()
        self._serve_newest()
        if self._beat_is_due():
            self.store.beat(now_ms())
            self.beaten_ms = now_ms()
        self._commit()

    def _beat_is_due(self) -> bool:
        return now_ms() - self.beaten_ms >= BEAT_MS

    def _redis_is_as_left(self) -> bool:
        found = self.store.applied()
        if found == self.applied:
            return True
        log.get().error("redis_rolled_back", held=len(self.applied), found=len(found), next="filled from the topics")
        REFILLS.inc()
        self._adopt(found)
        if self.pointer is not None:
            self.store.mirror(self.pointer)
        self._read_from_applied()
        return False

    def _adopt(self, found: dict[str, int]) -> None:
        """Take what Redis holds as applied; users' records older than tombstones are kept are read from scratch."""
        if found and now_ms() - (self.store.heartbeat_ms() or 0) > OLD_COPY_MS:
            gone = [name for name in found if name.startswith(KINDS)]
            self.store.forget_applied(gone)
            for kind in KINDS:
                self.store.clear_users(kind)
            found = {name: value for name, value in found.items() if name not in gone}
        self.applied = found

    def _set_applied(self, values: dict[str, int]) -> None:
        self.store.set_applied(values)
        self.applied |= values

    # ---- histories, profiles -----------------------------------------------------------------------------------------

    def _apply_users(self, records: list[Message]) -> dict[str, int]:
        last: dict[Kind, dict[str, bytes | None]] = {kind: {} for kind in KINDS}
        positions: dict[str, int] = {}
        for record in records:
            kind, key = self.topics[str(record.topic())], record.key()
            positions[f"{kind}:{record.partition()}"] = int(record.offset() or 0) + 1
            if key is not None:
                last[kind][_text(key)] = record.value()
        for kind, values in last.items():
            if values:
                self.store.put_users(kind, values)
                RECORDS.labels(kind).inc(len(values))
        return positions

    # ---- updates -----------------------------------------------------------------------------------------------------

    def _take_pointer(self, record: Message) -> None:
        value = record.value()
        if record.key() == control.KEY and value is not None:
            self.pointer = control.decode(bytes(value))
            self.store.mirror(self.pointer)
            log.get().info("served", namespace=self.pointer.namespace, version=self.pointer.version)

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
            self.assembler, self.half_from = Assembler(), None
            return
        if update is not None:
            self.half_from = None
            self._apply_update(update, offset + 1)

    def _apply_update(self, update: Update, offset: int) -> None:
        held = {int(name[8:]): v for name, v in self.applied.items() if name.startswith("version:")}
        verdict = judge(held, update.kind, update.version, update.sequence, self.settings.publish.keep_versions)
        APPLIED.labels(verdict.value).inc()
        if verdict in REFUSED:
            log.get().error(
                "refused",
                reason=verdict.value,
                version=update.version,
                sequence=update.sequence,
                applied=held.get(update.version),
                heals="the next snapshot",
            )
        rows = self._apply_rows(update, held) if verdict is Verdict.APPLY else 0
        self._advance_model(update, offset)
        if verdict is Verdict.APPLY:
            self._tell(update, rows)
        self._set_applied({"updates": max(offset, self.applied.get("updates", 0))})

    def _apply_rows(self, update: Update, held: dict[int, int]) -> int:
        if update.kind == "snapshot":
            rows = self.store.replace_rows(update.version, update.users, update.manifest.dim)
        else:
            rows = self.store.put_rows(update.version, update.users, update.manifest.dim)
        # Who is deleted is deleted from the versions one could go back to as well.
        gone = [user for section in update.users for user in section.deleted]
        self.store.delete_rows([v for v in held if v < update.version], gone)
        self._set_applied({f"version:{update.version}": update.sequence})
        return rows

    def _tell(self, update: Update, rows: int) -> None:
        done_ms, arrival_ms = now_ms(), update.manifest.arrival_ms
        freshness_ms = done_ms - arrival_ms if arrival_ms else None
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
            lag=self._lag(),
            freshness_ms=freshness_ms,
        )

    def _lag(self) -> int:
        assert self.updates is not None  # noqa: S101
        with contextlib.suppress(KafkaException):
            part = TopicPartition(self.updates_topic, 0)
            _, high = self.updates.get_watermark_offsets(part, cached=True)
            position = self.updates.position([part])[0].offset
            return max(0, high - position) if position >= 0 else 0
        return -1

    # ---- the model and its index files -------------------------------------------------------------------------------

    def _advance_model(self, update: Update, offset: int) -> None:
        """Bring the model at hand forward; index files for a snapshot, and when much has changed since the last."""
        if self.building is not None:
            self.backlog.append((update, offset))
            return
        limit = self.settings.publisher.exact_max_items
        held = self.model
        if update.kind == "snapshot" and (held is None or update.version > held.version):
            self._build(lambda: model.from_snapshot(update, offset, limit), update.manifest.items)
        elif held is not None and model.follows(held, update):
            ahead = self.model = model.advanced(held, update, offset, limit)
            self.unsaved += sum(len(s.ids) + len(s.deleted) for s in update.items)
            if update.kind == "snapshot" or self.unsaved > self.settings.publisher.overlay_max_items:
                self._build(lambda: model.compacted(ahead, limit), len(ahead.catalogue))

    def _build(self, make: Callable[[], Model], items: int) -> None:
        """Write index files of a model; a small one at once, a large one beside the loop."""

        def make_and_write() -> Model:
            built = make()
            index_files.write(self.settings.files, self.settings.namespace, built)
            return built

        self.unsaved, self.built_from = 0, self.update_from
        self.building = self.builder.submit(make_and_write)
        if items <= self.settings.publisher.exact_max_items:
            self._wait_for_build()

    def _wait_for_build(self) -> None:
        if self.building is not None:
            self.building.exception()
            self._take_built()

    def _take_built(self) -> None:
        if self.building is None or not self.building.done():
            return
        done, self.building, self.built_from = self.building, None, None
        waiting, self.backlog = self.backlog, []
        self.model = done.result()  # what failed is read and built again
        self.ready.add(self.model.version)
        index_files.forget(self.settings.files, self.ready)
        log.get().info(
            "index_built",
            version=self.model.version,
            sequence=self.model.sequence,
            items=len(self.model.catalogue),
            exact=self.model.catalogue.index.exact,
        )
        for update, offset in waiting:
            self._advance_model(update, offset)

    # ---- the served pointer ------------------------------------------------------------------------------------------

    def _serve_newest(self) -> None:
        """Let the newest version that has both its rows in Redis and its index files be served, and forget old ones."""
        applied = {int(name[8:]) for name in self.applied if name.startswith("version:")}
        whole = applied & self.ready
        if whole and should_serve(self.pointer, self.settings.namespace, max(whole)):
            pointer = serve(self.pointer, self.settings.namespace, max(whole), now_ms())
            control.write(self.settings, pointer)
            self.pointer = pointer
            self.store.mirror(pointer)
            log.get().info("cut_over", version=self.pointer.version, previous=self.pointer.previous)
        keep = self.settings.publish.keep_versions
        served = {self.pointer.version, self.pointer.previous} if self.pointer else set()
        if old := expired(applied, served, keep):
            self.store.expire(old)
            for version in old:
                del self.applied[f"version:{version}"]
            index_files.forget(self.settings.files, set(applied) - set(old))
            self.ready -= set(old)
            log.get().info("expired", versions=",".join(map(str, old)))

    # ---- commit ------------------------------------------------------------------------------------------------------

    def _commit(self) -> None:
        """Commit how far everything is applied; position() passes transaction markers, so the lag can be 0."""
        assert self.users is not None  # noqa: S101
        assert self.updates is not None  # noqa: S101
        news = {self.users: self._news(self.users), self.updates: self._news(self.updates)}
        for member, offsets in news.items():
            if offsets:
                try:
                    member.commit(offsets=offsets, asynchronous=False)
                except KafkaException as error:
                    log.get().warning("not_committed", reason=str(error))
                else:
                    self.committed |= {(o.topic, o.partition): o.offset for o in offsets}

    def _news(self, member: Consumer) -> list[TopicPartition]:
        found = []
        for at in member.position(member.assignment()):
            if at.topic == self.control_topic or at.offset < 0:
                continue
            if at.topic == self.updates_topic:
                at.offset = min(n for n in (at.offset, self.half_from, self.built_from) if n is not None)
            if self.committed.get((at.topic, at.partition)) != at.offset:
                found.append(at)
        return found

    # ---- the rest ----------------------------------------------------------------------------------------------------

    def health(self) -> dict[str, Any]:
        """What /healthz says."""
        held = self.model
        return {
            "role": "publisher",
            "version": held.version if held else None,
            "sequence": held.sequence if held else None,
            "served": self.pointer.version if self.pointer else None,
            "beat_ms": self.beaten_ms,
        }

    def close(self) -> None:
        """Leave; what is applied but not committed is applied again."""
        self.builder.shutdown(wait=True)
        self._close_consumers()

    def _close_consumers(self) -> None:
        for member in (self.users, self.updates):
            if member is not None:
                member.close()
        self.users = self.updates = None


def _records(messages: list[Message]) -> list[Message]:
    """Messages that are records; KafkaException for an error that will not go away."""
    records = []
    for message in messages:
        error = message.error()
        if error is None:
            records.append(message)
        elif error.fatal() or error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
            raise KafkaException(error)
        elif error.code() != END_OF_PARTITION:
            log.get().warning("kafka", reason=str(error))
    return records


def _text(key: str | bytes) -> str:
    return key if isinstance(key, str) else key.decode("utf-8", "replace")
