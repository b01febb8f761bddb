"""How a recall server keeps up: it follows `control` for the version to serve and `updates` for what deltas bring.

    control says 4 --> load index files of 4 beside --> read updates from their offset to the end --> swap
                       (3 answers meanwhile)                                                         (one reference)

A request takes the reference once; nothing that it holds ever changes. Where index files of the version do not come
(another machine, a broken disk), the model is built from the snapshot on `updates` itself.
"""

import threading
import time
from dataclasses import dataclass

import redis
from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from contract import log
from contract.errors import BadInputError, UnreachableError
from contract.kafka import END_OF_PARTITION, consumer, create_topics
from contract.messages import Served
from contract.settings import Settings
from contract.updates import Assembler, Update, decode_chunk
from publisher import control, index_files, model
from publisher.model import Model
from publisher.store import Store
from publisher.versions import freshness

POLL_S = 0.1
BEGINNING = 0  # not OFFSET_BEGINNING: librdkafka would look that up first, and waits half a second to ask again
LOOK_S = 1.0  # between looks for index files and for signs of life
FILES_PATIENCE_S = 2.0  # without index files for so long: build from `updates`


@dataclass(frozen=True, eq=False)
class Serving:
    """What answers requests from one moment to the next."""

    namespace: str
    model: Model
    store: Store  # of that namespace
    freshness_ms: int | None  # of the newest update: click arrival to retrievable here


class Follower:
    """Keeps `serving` current; `follow` blocks, everything else may be read from any thread."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self.settings = settings
        self._control_topic = settings.names.topic("control")
        self.limit = settings.publisher.exact_max_items
        self.serving: Serving | None = None
        self.pointer: Served | None = None
        self.silent_since_ms: int | None = None  # the publisher's last sign of life, if it is too long ago
        self.redis_error: str | None = None
        self._store = store
        self._settings = settings  # under the served namespace
        self._consumer: Consumer | None = None
        self._next: Model | None = None  # being brought to the end of `updates`
        self._from_topic = False
        self._astray = False  # the consumer does not read where the serving model ends
        self._control_from = BEGINNING  # next record of control
        self._control_read = False  # to its end, once
        self._wanted_since = 0.0
        self._looked = 0.0
        self._assembler = Assembler()
        self._refused: set[str] = set()

    @property
    def behind(self) -> str | None:
        """Why answers are not from the served version, if so."""
        pointer, serving = self.pointer, self.serving
        if pointer is None or serving is None:
            return None
        if (pointer.namespace, pointer.version) == (serving.namespace, serving.model.version):
            return None
        return f"version {pointer.version} of {pointer.namespace} is served, its index is not here yet"

    def follow(self, stop: threading.Event) -> None:
        """Follow until `stop`; waits for Kafka to come, and to come back."""
        while not stop.is_set():
            try:
                if self._consumer is None:
                    create_topics(self.settings)
                    self._assign()
                self._turn()
            except (KafkaException, UnreachableError) as error:
                if isinstance(error, KafkaException) and error.args[0].fatal():
                    raise
                log.get().warning("waiting", reason=str(error)[:300])
                stop.wait(LOOK_S)
        if self._consumer is not None:
            self._consumer.close()

    def close(self) -> None:
        """Let go of Redis."""
        self._store.client.close()

    # ---- where to read -----------------------------------------------------------------------------------------------

    def _assign(self) -> None:
        """Read control where we were, and updates where the model at hand ends."""
        held = self._next or (self.serving.model if self.serving else None)
        offset = BEGINNING if held is None or self._from_topic else held.offset
        if self._consumer is not None:
            self._consumer.close()
        # The group exists to have a name; a server commits nothing.
        self._consumer = consumer(
            self.settings.kafka, self.settings.names.group("server"), queued_max_messages_kbytes=32_768
        )
        parts = [TopicPartition(self._control_topic, 0, self._control_from)]
        if held is not None or self._from_topic:
            parts.append(TopicPartition(self._settings.names.topic("updates"), 0, offset))
        self._consumer.assign(parts)
        self._astray = False
        self._assembler = Assembler()

    # ---- one turn ----------------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        assert self._consumer is not None  # noqa: S101  (follow() assigned it)
        before = self.pointer, self._control_read
        for message in self._consumer.consume(16, POLL_S):
            self._take(message)
        if self._astray:
            if self.serving is not None:
                self._settings = self.settings.model_copy(update={"namespace": self.serving.namespace})
            self._assign()
        if time.monotonic() - self._looked >= LOOK_S or (self.pointer, self._control_read) != before:
            self._looked = time.monotonic()
            self._look_for_index()
            self._look_for_life()

    def _take(self, message: Message) -> None:
        error = message.error()
        if error is not None:
            if error.fatal():
                raise KafkaException(error)
            if error.code() == END_OF_PARTITION:
                self._at_end(str(message.topic()))
        elif message.topic() == self._control_topic:
            self._control_from = int(message.offset() or 0) + 1
            self._take_pointer(message)
        elif not self._astray:
            self._take_chunk(message)

    def _take_pointer(self, message: Message) -> None:
        value = message.value()
        if message.key() != control.KEY or value is None:
            return
        pointer = control.decode(bytes(value))
        if pointer is not None and pointer != self.pointer:
            self.pointer = pointer
            self._wanted_since = time.monotonic()
            if self._next is not None or self._from_topic:
                # What was being loaded is not wanted any more: go on with the model that answers, from where it is.
                self._next, self._from_topic, self._astray = None, False, True

    def _look_for_index(self) -> None:
        """Load index files of the served version if another one is at hand, or newer ones after a gap."""
        pointer, serving = self.pointer, self.serving
        if pointer is None or not self._control_read or self._next is not None or self._from_topic:
            return
        if serving is not None and self.behind is None:
            self._take_newer_base(serving.model)
            return
        settings = self.settings.model_copy(update={"namespace": pointer.namespace})
        found, refused = index_files.newest(settings.files, pointer.namespace, pointer.version)
        for reason in set(refused) - self._refused:
            log.get().error("index_refused", reason=reason)
        self._refused.update(refused)
        late = time.monotonic() - self._wanted_since > FILES_PATIENCE_S
        if found is not None or late:
            self._settings, self._next, self._from_topic = settings, found, found is None
            self._assign()

    def _take_newer_base(self, held: Model) -> None:
        """Put a large overlay over index files that were built since; an exact index works its overlay in by itself."""
        if held.catalogue.index.exact or 2 * len(held.catalogue.over) < self.settings.publisher.overlay_max_items:
            return
        newer = [n for v, n in index_files.written(self._settings.files) if v == held.version]
        if not any(held.catalogue.base_sequence < n <= held.sequence for n in newer):
            return
        built, _ = index_files.newest(self._settings.files, self._settings.namespace, held.version)
        if built is not None and held.catalogue.base_sequence < built.sequence <= held.sequence:
            self._publish(model.on_newer_base(held, built))
            log.get().info("rebased", version=held.version, sequence=held.sequence, base=built.sequence)

    def _look_for_life(self) -> None:
        try:
            beat_ms = self._store.heartbeat_ms() if self.serving is None else self.serving.store.heartbeat_ms()
        except redis.RedisError as error:
            self.redis_error = type(error).__name__
            return
        self.redis_error = None
        now_ms = int(time.time() * 1000)
        silent = beat_ms is not None and now_ms - beat_ms > self.settings.server.degraded_after_ms
        self.silent_since_ms = beat_ms if silent else None

    # ---- updates -----------------------------------------------------------------------------------------------------

    def _take_chunk(self, message: Message) -> None:
        value = message.value()
        if value is None:
            return
        try:
            update = self._assembler.add(decode_chunk(bytes(value)))
        except BadInputError as error:
            log.get().error("refused", reason=str(error), offset=message.offset())
            return  # see Publisher: a foreign record does no harm to the update around it
        if update is not None:
            self._take_update(update, int(message.offset() or 0) + 1)

    def _take_update(self, update: Update, offset: int) -> None:
        held = self._next or (self.serving.model if self.serving and not self._from_topic else None)
        if held is None:
            wanted = self.pointer.version if self.pointer and self._from_topic else None
            if (update.kind, update.version) == ("snapshot", wanted):
                self._next = model.from_snapshot(update, offset, self.limit)
            return
        if model.follows(held, update):
            news = model.advanced(held, update, offset, self.limit)
        elif update.version > held.version:
            gone = [item for section in update.items for item in section.deleted]
            if not any(held.catalogue.row(item) is not None for item in gone):
                return
            news = model.without(held, gone, offset)
        else:
            if update.version == held.version and update.sequence > held.sequence:
                log.get().error("refused", reason="gap", version=update.version, sequence=update.sequence)
            return
        if self._next is not None:
            self._next = news
        else:
            self._publish(news)

    def _at_end(self, topic: str) -> None:
        """At the end of `updates` what was loaded beside answers from now on."""
        if topic == self._control_topic:
            self._control_read = True
        elif self._next is not None:
            news, self._next, self._from_topic = self._next, None, False
            self._publish(news, loaded=True)
            log.get().info("serving", version=news.version, sequence=news.sequence, items=len(news.catalogue))
        elif self._from_topic:
            log.get().warning("waiting", reason="neither index files nor a snapshot of the served version are there")
            self._from_topic, self._wanted_since = False, time.monotonic()

    def _publish(self, news: Model, *, loaded: bool = False) -> None:
        store = Store(self._store.client, self._settings.names)
        held = self.serving
        if loaded or held is None:
            freshness_ms = self._stored_freshness(store, news.version)
        else:
            before = held.model.manifest.arrival_ms, held.freshness_ms
            _, freshness_ms = freshness(before, news.manifest.arrival_ms, int(time.time() * 1000))
        self.serving = Serving(self._settings.namespace, news, store, freshness_ms)

    def _stored_freshness(self, store: Store, version: int) -> int | None:
        """As the publisher has it: when clicks of a model just loaded became retrievable, nobody here has seen."""
        try:
            return store.freshness(version)[1]
        except redis.RedisError:
            return None
