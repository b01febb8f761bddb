"""The Kafka edges that more than one room uses: client configuration, partitioner, reachability, compacted reads.

Sources: librdkafka CONFIGURATION.md; KIP-98 (transactions); Kafka's DefaultPartitioner (murmur2).
"""

import logging
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, cast

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, OffsetSpec, ResourceType

from contract.errors import RefusedError, UnreachableError
from contract.settings import Kafka, Settings
from contract.topics import TOPICS, Topic

PARTITIONER = "murmur2_random"  # Java's; librdkafka's default is CRC32 and would break co-partitioning
MAX_DEAD_LETTER_BYTES = 4_000_000  # original bytes kept, so that headers still fit below DERIVED_MAX_BYTES
MAX_HEADER_BYTES = 40_000  # likewise of keys and of headers that came along
DERIVED_MAX_BYTES = 4_194_304  # derived topics take what an event at the raw limit grows into (MAX_EVENT_BYTES)
METADATA_MAX_CHARS = 4_095
NO_LEADER = (
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError.OFFSET_NOT_AVAILABLE,  # a leader that was just elected does not know its own end yet (KIP-207)
    KafkaError._NOENT,  # noqa: SLF001  (librdkafka's own "no leaders found"; no public name for it)
)
LEADER_S = 15.0
LIBRDKAFKA = logging.getLogger("librdkafka")  # heard when its client is polled; else it writes to standard error itself
END_OF_PARTITION = KafkaError._PARTITION_EOF  # noqa: SLF001  (no public name for it)


class DeadLetter(NamedTuple):
    """What is written to a DLQ."""

    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]


def client_config(kafka: Kafka) -> dict[str, Any]:
    """Librdkafka settings shared by every client of ours."""
    config: dict[str, Any] = {
        "bootstrap.servers": kafka.bootstrap_servers,
        "security.protocol": kafka.security_protocol,
        "log_level": 3,
        "socket.keepalive.enable": True,
        "reconnect.backoff.max.ms": 1_000,
    }
    optional = {
        "sasl.mechanism": kafka.sasl_mechanism,
        "sasl.username": kafka.sasl_username,
        "sasl.password": kafka.sasl_password and kafka.sasl_password.get_secret_value(),
        "ssl.ca.location": kafka.ssl_ca_location and str(kafka.ssl_ca_location),
        "ssl.certificate.location": kafka.ssl_certificate_location and str(kafka.ssl_certificate_location),
        "ssl.key.location": kafka.ssl_key_location and str(kafka.ssl_key_location),
        "ssl.key.password": kafka.ssl_key_password and kafka.ssl_key_password.get_secret_value(),
    }
    return config | {name: value for name, value in optional.items() if value}


def producer(kafka: Kafka, **more: Any) -> Producer:
    """Idempotent producer that places keys as Java clients do; dots are written as underscores (not in `error_cb`)."""
    config = {
        "partitioner": PARTITIONER,
        "linger.ms": 5,
        "enable.idempotence": True,
        "compression.type": "lz4",
        "message.max.bytes": 2 * DERIVED_MAX_BYTES,  # the broker's limit is the one that counts
        "logger": LIBRDKAFKA,
    }
    return Producer(client_config(kafka) | config | _dotted(more))


def consumer(kafka: Kafka, group: str, **more: Any) -> Consumer:
    """Build a consumer that sees only committed transactions and commits nothing by itself."""
    config = {
        "group.id": group,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "earliest",
        "isolation.level": "read_committed",
        "partition.assignment.strategy": "range",
        "fetch.queue.backoff.ms": 5,  # the default of one second stalls a fast loop
        "fetch.wait.max.ms": 100,  # the end of a quiet partition is told so late
        "enable.partition.eof": True,
        "logger": LIBRDKAFKA,
    }
    return Consumer(client_config(kafka) | config | _dotted(more))


def admin(kafka: Kafka) -> AdminClient:
    """Build an admin client; it logs nothing, for its answers say what failed and nobody polls it."""
    return AdminClient(client_config(kafka) | {"log_level": 0})


def reach(kafka: Kafka) -> AdminClient:
    """Return an admin client of a broker that answers.

    Raises UnreachableError within `reach_timeout_ms`, naming what to check.
    """
    client = admin(kafka)
    try:
        client.list_topics(timeout=kafka.reach_timeout_ms / 1000)
    except KafkaException as error:
        raise UnreachableError(
            f"Kafka at {kafka.bootstrap_servers} does not answer within {kafka.reach_timeout_ms} ms "
            f"({error.args[0].name()}): check that it runs (`headrace up`), "
            "--bootstrap-server and kafka.security_protocol"
        ) from None
    return client


def partition_counts(client: AdminClient) -> dict[str, int]:
    """Partition count of every topic of the cluster."""
    return {name: len(topic.partitions) for name, topic in client.list_topics(timeout=10).topics.items()}


def create_topics(settings: Settings) -> list[str]:
    """Create the topics of this namespace that do not exist yet; give back the new ones.

    Existing topics are left as they are. `exposures`, `clicks`, `ranking-drops`, `users` and what is numbered
    like them must have one partition count: RefusedError names both counts and the ways out.
    """
    client = reach(settings.kafka)
    counts = partition_counts(client)
    names = settings.names
    co_partitioned = ("exposures", "clicks", "ranking-drops", "users")
    found = {names.topic(t): counts[names.topic(t)] for t in co_partitioned if names.topic(t) in counts}
    if len(set(found.values())) > 1:
        raise RefusedError(
            f"these topics must have the same number of partitions, or clicks never meet their exposures: {found}; "
            "create the smaller ones anew with the larger count, or name other topics with topic_prefix"
        )
    inputs = next(iter(found.values()), settings.kafka.partitions)
    wanted = []
    for topic in TOPICS:
        name = names.topic(topic.name)
        if name not in counts:
            count = inputs if topic.partitions == "inputs" else 1
            wanted.append(NewTopic(name, count, settings.kafka.replication_factor, config=_config(topic)))
        elif (
            topic.kind != "raw"
            and topic.partitions == "inputs"
            and topic.name not in {"catalogue", "items.dlq"}  # no partition of theirs is named
            and counts[name] != inputs
        ):
            raise RefusedError(
                f"{name} has {counts[name]} partitions and the raw topics have {inputs}: "
                "a changed count moves keys; start a new namespace (--namespace NAME) that replays the raw topics"
            )
    made = []
    for name, future in client.create_topics(wanted, operation_timeout=10).items() if wanted else ():
        try:
            future.result(30)
            made.append(name)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise
    _wait_for_leaders(client, [new.topic for new in wanted])
    return made


def _config(topic: Topic) -> dict[str, str]:
    config = {"message.timestamp.type": "LogAppendTime"}
    if topic.kind != "raw":
        config["max.message.bytes"] = str(DERIVED_MAX_BYTES)
    if topic.compacted:
        config |= {"cleanup.policy": "compact", "segment.ms": "600000", "min.cleanable.dirty.ratio": "0.1"}
    if topic.retention_ms is not None:
        config["retention.ms"] = str(topic.retention_ms)
    return config


def _wait_for_leaders(client: AdminClient, names: list[str]) -> None:
    """Wait until every partition of these topics has a leader: created is not yet usable."""
    deadline_s = time.monotonic() + LEADER_S
    while names:
        topics = client.list_topics(timeout=10).topics
        names = [
            name
            for name in names
            if name not in topics or topics[name].error or any(p.leader < 0 for p in topics[name].partitions.values())
        ]
        if names and time.monotonic() > deadline_s:
            raise UnreachableError(f"{', '.join(names)} have no leader {LEADER_S:.0f} s after creation: is Kafka well?")
        time.sleep(0.05 if names else 0)


def retention_ms(client: AdminClient, topic: str) -> int | None:
    """Retention of a topic in milliseconds; None: for ever."""
    resource = ConfigResource(ResourceType.TOPIC, topic)
    value = int(client.describe_configs([resource])[resource].result(10)["retention.ms"].value)
    return None if value < 0 else value


def end_offsets(
    client: AdminClient, partitions: list[TopicPartition], *, committed: bool = False
) -> dict[tuple[str, int], int]:
    """End of each partition: the high watermark, or with `committed` the last stable offset.

    Asks again for a few seconds while a partition has no leader yet: its topic was created a moment ago.
    """
    level = IsolationLevel.READ_COMMITTED if committed else IsolationLevel.READ_UNCOMMITTED
    return _list_offsets(client, partitions, OffsetSpec.latest(), level)  # type: ignore[no-untyped-call]


def start_offsets(client: AdminClient, partitions: list[TopicPartition]) -> dict[tuple[str, int], int]:
    """First offset that each partition still holds; asks again as `end_offsets` does."""
    return _list_offsets(client, partitions, OffsetSpec.earliest(), IsolationLevel.READ_UNCOMMITTED)  # type: ignore[no-untyped-call]


def watermarks(client: Consumer, topic: str, partition: int) -> tuple[int, int]:
    """Give the log's first offset and its end; asks again for a few seconds while the partition has no leader yet."""
    deadline_s = time.monotonic() + LEADER_S
    while True:
        try:
            low, high = client.get_watermark_offsets(TopicPartition(topic, partition), timeout=10)
        except KafkaException as error:
            if error.args[0].code() not in NO_LEADER or time.monotonic() > deadline_s:
                raise
            time.sleep(0.05)
        else:
            return low, high


def _list_offsets(
    client: AdminClient, partitions: list[TopicPartition], spec: OffsetSpec, level: IsolationLevel
) -> dict[tuple[str, int], int]:
    asked = {TopicPartition(p.topic, p.partition): spec for p in partitions}
    if not asked:
        return {}
    deadline_s = time.monotonic() + LEADER_S
    while True:
        answers = client.list_offsets(asked, isolation_level=level, request_timeout=10)
        try:
            return {(p.topic, p.partition): future.result(10).offset for p, future in answers.items()}
        except KafkaException as error:
            if error.args[0].code() not in NO_LEADER or time.monotonic() > deadline_s:
                raise
            time.sleep(0.05)
            client.list_topics(timeout=10)  # or the client goes on believing what it heard before the creation


def committed(
    kafka: Kafka, group: str, partitions: list[TopicPartition], timeout_s: float = 10, *, stable: bool = True
) -> list[TopicPartition]:
    """Committed offsets of a group with their metadata, without joining it; offset -1001 where there is none.

    Not `stable`: as they stand, without waiting for the end of a transaction that is about to move them.

    AdminClient.list_consumer_group_offsets does the same but takes the process down (SIGSEGV in librdkafka 2.16.0,
    rd_kafka_cgrp_op below rd_kafka_handle_OffsetFetch) when the group's coordinator is moving or loading.
    Raises UnreachableError when the coordinator does not answer in time.
    """
    until_s = time.monotonic() + timeout_s
    reader = consumer(kafka, group, isolation_level="read_committed" if stable else "read_uncommitted")
    try:
        while partitions:
            try:
                found = reader.committed([TopicPartition(p.topic, p.partition) for p in partitions], timeout=2)
            except KafkaException as error:
                cause = error.args[0].name()
            else:
                failed = [p.error.name() for p in found if p.error]
                if not failed:
                    return list(found)
                cause = failed[0]
            if time.monotonic() > until_s:
                raise UnreachableError(f"group {group} gives no committed offsets within {timeout_s} s: {cause}")
            time.sleep(0.05)
        return []
    finally:
        reader.close()


def is_end(message: Message) -> bool:
    """Whether this is no record but the end of a partition, at its offset; raises KafkaException for an error."""
    error = message.error()
    if error is not None and error.code() != END_OF_PARTITION:
        raise KafkaException(error)
    return error is not None


def read_to_end(
    kafka: Kafka,
    topic: str,
    partitions: list[int],
    *,
    start: int = OFFSET_BEGINNING,
    below: Mapping[int, int] | None = None,
    patience_s: float = 60.0,
) -> Iterator[Message]:
    """Every committed record of some partitions, up to the high watermark seen at the call (or `below` these offsets).

    Waits for open transactions below that mark (`patience_s` at most without progress, then UnreachableError).
    Who knows what was acknowledged gives `below`: that is waited for, whatever end the broker tells at the moment.
    """
    if below is None:
        ends = end_offsets(admin(kafka), [TopicPartition(topic, p) for p in partitions])
    else:
        ends = {(topic, p): below[p] for p in partitions}
    more = {"queued.min.messages": 100_000, "fetch.wait.max.ms": 10}  # an end behind markers comes with the next fetch
    reader = consumer(kafka, "headrace-read", **more)
    try:
        reader.list_topics(topic, timeout=10)  # with leaders known, reading starts half a second sooner
        reader.assign([TopicPartition(topic, p, start) for p in partitions])
        open_ends = {p: ends[(topic, p)] for p in partitions if ends[(topic, p)] > 0}
        last_news = time.monotonic()
        while open_ends:
            for message in reader.consume(10_000, 0.05):
                partition, offset = cast("int", message.partition()), cast("int", message.offset())
                if is_end(message):
                    if offset >= ends[(topic, partition)]:
                        open_ends.pop(partition, None)  # markers alone move no position()
                    continue
                last_news = time.monotonic()
                if offset < ends[(topic, partition)]:
                    yield message
            for at in reader.position([TopicPartition(topic, p) for p in open_ends]):
                if at.offset >= open_ends[at.partition]:
                    del open_ends[at.partition]
            if open_ends and time.monotonic() - last_news > patience_s:
                raise UnreachableError(f"{topic} gives nothing below its end {open_ends}: is a transaction hanging?")
    finally:
        reader.close()


def produce(target: Producer, topic: str, value: bytes | None, key: bytes | None, **more: Any) -> None:
    """Produce, waiting while the local queue is full."""
    while True:
        try:
            target.produce(topic, value, key, **more)
        except BufferError:
            target.poll(0.05)
        else:
            return


def murmur2(data: bytes) -> int:
    """Kafka's 32-bit murmur2 of a key, made positive as its partitioner does."""
    mask, m, length = 0xFFFFFFFF, 0x5BD1E995, len(data)
    h = (0x9747B28C ^ length) & mask
    for i in range(0, length - 3, 4):
        k = (int.from_bytes(data[i : i + 4], "little") * m) & mask
        k = ((k ^ (k >> 24)) * m) & mask
        h = ((h * m) & mask) ^ k
    rest = data[length & ~3 :]
    if rest:
        h = ((h ^ int.from_bytes(rest, "little")) * m) & mask
    h = ((h ^ (h >> 13)) * m) & mask
    return (h ^ (h >> 15)) & 0x7FFFFFFF


def partition_of(key: bytes, partitions: int) -> int:
    """Partition that Kafka's default partitioner gives a key."""
    return murmur2(key) % partitions


def dead_letter(message: Message, reason: str, text: str, stage: str) -> DeadLetter:
    """Key, value and headers of a dead letter: the original bytes, and Kafka Connect's header names (KIP-298).

    The original's own headers are kept. What would not fit below DERIVED_MAX_BYTES is cut, and a
    `headrace.cut.*` header says how long it was.
    """
    key, value = _bytes(message.key()), _bytes(message.value())
    came = cast("list[tuple[str, bytes | None]]", message.headers() or [])
    headers = [(k, _bytes(v) or b"") for k, v in came if not k.startswith("__connect.errors.")]
    if sum(len(k) + len(v) for k, v in headers) > MAX_HEADER_BYTES:
        headers = [("headrace.cut.headers", str(len(headers)).encode())]
    about = {
        "topic": message.topic() or "",
        "partition": str(message.partition()),
        "offset": str(message.offset()),
        "exception.class.name": reason,
        "exception.message": text[:1_000],
        "stage": stage,
    }
    headers += [(f"__connect.errors.{name}", said.encode("utf-8", "replace")) for name, said in about.items()]
    if key is not None and len(key) > MAX_HEADER_BYTES:
        headers.append(("headrace.cut.key", str(len(key)).encode()))
        key = key[:MAX_HEADER_BYTES]
    if value is not None and len(value) > MAX_DEAD_LETTER_BYTES:
        headers.append(("headrace.cut.value", str(len(value)).encode()))
        value = value[:MAX_DEAD_LETTER_BYTES]
    return DeadLetter(key, value, headers)


def _bytes(value: str | bytes | None) -> bytes | None:
    return value.encode() if isinstance(value, str) else value


def _dotted(more: Mapping[str, Any]) -> dict[str, Any]:
    return {name if name.endswith("_cb") else name.replace("_", "."): value for name, value in more.items()}
