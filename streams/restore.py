"""State from the logs: reads spans of partitions outside any group, and builds a partition's Join from them."""

import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient

from contract import crash, kafka
from contract.errors import DataLossError, UnreachableError
from contract.messages import Click, Exposure, History, Popularity, decoder
from contract.settings import Kafka
from contract.topics import Names
from streams.door import Door, Refused
from streams.join import Commit, Join, Record, Rules, Source, needed_from

PATIENCE_S = 60.0
WAIT_S = 0.02  # for a full batch; the last one of a span is never full
Alive = Callable[[], None]  # called often while reading; raises Interrupted to give up
T = TypeVar("T")
_history = decoder(History)
_popularity = decoder(Popularity)


class Interrupted(Exception):  # noqa: N818  (no error: what `alive` raises to give up)
    """The partitions moved, or the process ends."""


class PoisonError(Exception):
    """The core failed on one record."""

    def __init__(self, source: str, partition: int, offset: int, cause: Exception) -> None:
        super().__init__(f"{source}-{partition}@{offset}: {type(cause).__name__}: {cause}")
        self.source, self.partition, self.offset = source, partition, offset


def reader(settings: Kafka) -> Consumer:
    """Build a consumer for spans: no group's offsets, and no silent jump when an offset is gone."""
    more: dict[str, Any] = {"auto.offset.reset": "error", "queued.min.messages": 50_000, "fetch.wait.max.ms": 10}
    return kafka.consumer(settings, "headrace-read", **more)


def check_span(client: Consumer, topic: str, partition: int, start: int, stop: int) -> None:
    """Raise DataLossError unless the log still reaches from `start` to `stop`."""
    low, high = kafka.watermarks(client, topic, partition)
    if start < low and start < stop:
        raise DataLossError(
            f"{topic}-{partition}: offset {start} is still needed and the log begins at {low}: retention took "
            "unread events; raise retention.ms, and start a new namespace (--namespace NAME) from what is left"
        )
    if stop > high:
        raise DataLossError(
            f"{topic}-{partition}: offset {stop} is committed and the log ends at {high}: the topic was created anew "
            "or cut; start a new namespace (--namespace NAME)"
        )


def span(client: Consumer, topic: str, partition: int, start: int, stop: int, alive: Alive) -> Iterator[Message]:
    """Committed records with start <= offset < stop; waits for open transactions below `stop`."""
    if start >= stop or stop <= 0:
        return
    client.assign([TopicPartition(topic, partition, start)])
    last_news_s = time.monotonic()
    while True:
        messages = client.consume(5_000, WAIT_S)
        alive()
        for message in messages:
            offset = cast("int", message.offset())
            if offset >= stop:
                return
            if not kafka.is_end(message):  # an end at `stop` counts too: where only markers are left, no record comes
                last_news_s = time.monotonic()
                yield message
        if client.position([TopicPartition(topic, partition)])[0].offset >= stop:
            return
        if time.monotonic() - last_news_s > PATIENCE_S:
            raise UnreachableError(f"{topic}-{partition} gives nothing below {stop}: is a transaction hanging?")


def latest(
    client: Consumer, topic: str, partition: int, stop: int, kind: Callable[[bytes], T], alive: Alive
) -> Iterator[tuple[str, T]]:
    """Newest record of each key of a compacted partition below `stop`, deleted keys left out."""
    if stop <= 0:  # nor may a topic that was created a moment ago be asked anything: it may have no leader yet
        return
    values: dict[bytes, bytes] = {}
    # Asked for first, the leader is known when the reading starts; librdkafka else tries again after half a second.
    start, _ = kafka.watermarks(client, topic, partition)
    for message in span(client, topic, partition, start, stop, alive):
        key, value = cast("bytes", message.key()), message.value()
        if value is None:
            values.pop(key, None)
        else:
            values[key] = value
    while values:
        key, value = values.popitem()
        yield key.decode(), kind(value)


class Restorer:
    """Builds the Join of a partition from its commit and the logs."""

    def __init__(
        self,
        settings: Kafka,
        names: Names,
        rules: Rules,
        exposures: Door[Exposure],
        clicks: Door[Click],
        poison: dict[tuple[str, int], set[int]],
        alive: Alive,
    ) -> None:
        self._settings, self._names, self._rules, self._alive = settings, names, rules, alive
        self._doors: dict[str, Door[Any]] = {"exposures": exposures, "clicks": clicks}
        self._poison = poison
        self._last: tuple[str, int] | None = None  # record that the core is working on
        self._clients: dict[str, Consumer] = {}  # kept for the next partition: connecting takes longer than reading
        self._admin: AdminClient | None = None

    def close(self) -> None:
        """Let go of Kafka until the next restore."""
        for client in self._clients.values():
            client.close()
        self._clients, self._admin = {}, None

    def restore(self, partition: int, commit: Commit | None, *, counts: bool = True) -> Join:
        """Join as it was at `commit`; a new one without. Not `counts`: without histories and popularity.

        Raises DataLossError when a needed offset is gone, PoisonError when the core fails on a record.
        """
        self._last = None
        stops = self._compacted_ends(partition) if counts else {}
        exposures, clicks = self._needed(self._client("exposures"), partition, commit)
        histories, popularity = self._names.topic("histories"), self._names.topic("popularity")
        try:
            return Join.rebuild(
                self._rules,
                commit,
                self._records("exposures", partition, *exposures),
                self._records("clicks", partition, *clicks),
                self._latest(histories, partition, stops.get(histories, 0), _history.decode),
                self._latest(popularity, partition, stops.get(popularity, 0), _popularity.decode),
            )
        except (KafkaException, DataLossError, UnreachableError, Interrupted):
            raise
        except Exception as error:
            if self._last is None:
                raise
            raise PoisonError(self._last[0], partition, self._last[1], error) from error

    def _client(self, purpose: str) -> Consumer:
        if purpose not in self._clients:
            self._clients[purpose] = reader(self._settings)
        return self._clients[purpose]

    def _latest(self, topic: str, partition: int, stop: int, kind: Callable[[bytes], T]) -> Iterator[tuple[str, T]]:
        return latest(self._client("counts"), topic, partition, stop, kind, self._alive)

    def _compacted_ends(self, partition: int) -> dict[str, int]:
        self._admin = self._admin or kafka.admin(self._settings)
        topics = [self._names.topic(t) for t in ("histories", "popularity")]
        ends = kafka.end_offsets(self._admin, [TopicPartition(t, partition) for t in topics])
        return {topic: ends[(topic, partition)] for topic in topics}

    def _needed(
        self, client: Consumer, partition: int, commit: Commit | None
    ) -> tuple[tuple[int, int], tuple[int, int]]:
        if commit is None:
            return (0, 0), (0, 0)
        starts, stops = needed_from(commit), (commit.exposures_position, commit.clicks_position)
        for source, start, stop in zip(("exposures", "clicks"), starts, stops, strict=True):
            check_span(client, self._names.topic(source), partition, start, stop)
        return (starts[0], stops[0]), (starts[1], stops[1])

    def _records(self, source: Source, partition: int, start: int, stop: int) -> Iterator[Record]:
        door, poison = self._doors[source], self._poison.get((source, partition), ())
        client = self._client(source)
        for message in span(client, self._names.topic(source), partition, start, stop, self._alive):
            offset = cast("int", message.offset())
            arrival_ms = message.timestamp()[1]
            if offset in poison:
                yield Record(offset, arrival_ms, None, "poison", "", message)
                continue
            try:
                event = door.enter(message.value(), partition)
            except Refused as refused:
                yield Record(offset, arrival_ms, None, refused.reason, str(refused), message)
                continue
            crash.point("streams.rebuild")
            self._last = (source, offset)
            yield Record(offset, arrival_ms, event, "", "", message)
