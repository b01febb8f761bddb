"""`headrace tail`: the records of any topic of ours, decoded.

Raw topics show their JSON, inside topics their fields by name, `updates` the size of each chunk instead of its rows,
dead letters the original bytes (text, or base64) with the reason from their headers. Only committed records are seen.
"""

import base64
from collections.abc import Iterator
from typing import Any, cast

import msgspec
from confluent_kafka import KafkaException, Message, TopicPartition
from msgspec import Struct

from contract.errors import BadInputError
from contract.kafka import END_OF_PARTITION, admin, consumer, end_offsets, partition_counts, reach, read_to_end
from contract.messages import History, Item, Outcome, Popularity, SampleRecord, Served, User, decoder
from contract.settings import Kafka, Settings
from contract.topics import BY_NAME
from contract.updates import Chunk, ItemRows, Manifest, Section, Tensors, UserRows

INSIDE = {
    "catalogue": Item,
    "profiles": User,
    "samples": SampleRecord,
    "outcomes": Outcome,
    "popularity": Popularity,
    "histories": History,
    "updates": Chunk,
    "control": Served,
}
_section = decoder(Section)
ERRORS = "__connect.errors."


class TailRecord(Struct, frozen=True):
    """One record: `value` is ready for JSON, None is an empty record (a deletion), `headers` are text."""

    topic: str
    partition: int
    offset: int
    arrival_ms: int
    key: str | None
    value: Any
    headers: dict[str, str] = {}


def tail(
    settings: Settings,
    topic: str,
    *,
    count: int | None = 10,
    follow: bool = False,
    from_start: bool = False,
    partition: int | None = None,
) -> Iterator[TailRecord]:
    """The last `count` records of a topic by arrival, or with `from_start` the first (None: all); then the new ones.

    Raises BadInputError for an unknown topic or partition, UnreachableError when no broker answers.
    """
    name, partitions = _partitions(settings, topic, partition)
    ends = end_offsets(admin(settings.kafka), [TopicPartition(name, p) for p in partitions], committed=True)
    if from_start:
        messages = _first(settings.kafka, name, partitions, ends, count)
    else:
        messages = iter(_last(settings.kafka, name, partitions, ends, 10 if count is None else count))
    for message in messages:
        yield decoded(topic, message)
    if follow:
        for message in _new(settings.kafka, ends):
            yield decoded(topic, message)


def decoded(topic: str, message: Message) -> TailRecord:
    """Make a record of our topic fit to be shown; bytes that do not decode are shown as they are."""
    raw = message.value()
    headers = cast("list[tuple[str, bytes | None]]", message.headers() or [])
    return TailRecord(
        topic,
        cast("int", message.partition()),
        cast("int", message.offset()),
        message.timestamp()[1],
        None if message.key() is None else text_of(cast("bytes", message.key())),
        None if raw is None else _value(topic, raw),
        {name.removeprefix(ERRORS): text_of(value or b"") for name, value in headers},
    )


def text_of(data: bytes) -> str:
    """Bytes as UTF-8 text, or as `base64:...` where they are none."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return f"base64:{base64.b64encode(data).decode()}"


def _value(topic: str, raw: bytes) -> Any:
    try:
        if topic in INSIDE:
            message = decoder(INSIDE[topic]).decode(raw)
            return _chunk(message) if isinstance(message, Chunk) else named(message)
        if BY_NAME[topic].kind == "raw":
            return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return {"undecodable": text_of(raw), "reason": str(error)}
    return text_of(raw)


def named(value: Any) -> Any:
    """Messages as objects with field names, all the way down; a tagged one says its kind first."""
    if isinstance(value, Struct):
        tag = value.__struct_config__.tag
        fields = {name: named(getattr(value, name)) for name in value.__struct_fields__}
        return ({"kind": tag} if tag else {}) | fields
    if isinstance(value, list | tuple):
        return [named(part) for part in value]
    return value


def _chunk(chunk: Chunk) -> dict[str, Any]:
    """A chunk without its rows."""
    about: dict[str, Any] = {"kind": chunk.kind, "version": chunk.version, "sequence": chunk.sequence}
    about |= {"chunk": f"{chunk.chunk + 1}/{chunk.chunks}", "bytes": len(chunk.section)}
    match _section.decode(chunk.section):
        case Manifest() as manifest:
            tokens = {name: len(found) for name, found in manifest.tokens.items()}
            return about | {"manifest": named(manifest) | {"tokens": tokens}}
        case Tensors(tensor, first_row, _):
            return about | {"tensor": tensor.name, "shape": tensor.shape, "first_row": first_row}
        case UserRows(ids, _, deleted):
            return about | {"users": len(ids), "deleted": len(deleted), "first": ids[:3]}
        case ItemRows() as items:
            return about | {"items": len(items.ids), "deleted": len(items.deleted), "first": items.ids[:3]}
        case other:
            raise TypeError(type(other).__name__)


def _partitions(settings: Settings, topic: str, partition: int | None) -> tuple[str, list[int]]:
    if topic not in BY_NAME:
        raise BadInputError(f"there is no topic {topic!r}: wanted one of {', '.join(BY_NAME)}")
    name = settings.names.topic(topic)
    counts = partition_counts(reach(settings.kafka))
    if name not in counts:
        raise BadInputError(
            f"Kafka has no topic {name} yet: streams creates it (`headrace up`, `headrace run streams`)"
        )
    if partition is None:
        return name, list(range(counts[name]))
    if not 0 <= partition < counts[name]:
        raise BadInputError(f"{name} has partitions 0 to {counts[name] - 1}, got --partition {partition}")
    return name, [partition]


def _first(
    kafka: Kafka, name: str, partitions: list[int], ends: dict[tuple[str, int], int], count: int | None
) -> Iterator[Message]:
    given = 0
    for message in read_to_end(kafka, name, partitions):
        if given == count:
            return
        if cast("int", message.offset()) < ends[name, cast("int", message.partition())]:
            given += 1
            yield message


def _last(
    kafka: Kafka, name: str, partitions: list[int], ends: dict[tuple[str, int], int], count: int
) -> list[Message]:
    """Newest records by arrival; markers and aborted records take offsets, so it looks back until it has enough."""
    found: list[Message] = []
    for partition in partitions:
        end, block = ends[name, partition], count + 8
        own: list[Message] = []
        while count and end > 0 and len(own) < count:
            start = max(0, end - block)
            below = read_to_end(kafka, name, [partition], start=start)
            own = [m for m in below if cast("int", m.offset()) < end][-count:]
            if start == 0:
                break
            block *= 8
        found += own
    found.sort(key=lambda m: (m.timestamp()[1], cast("int", m.partition()), cast("int", m.offset())))
    return found[-count:] if count else []


def _new(kafka: Kafka, ends: dict[tuple[str, int], int]) -> Iterator[Message]:
    reader = consumer(kafka, "headrace-read")
    try:
        reader.assign([TopicPartition(topic, partition, end) for (topic, partition), end in ends.items()])
        while True:
            for message in reader.consume(1_000, 0.2):
                error = message.error()
                if error is None:
                    yield message
                elif error.code() != END_OF_PARTITION and not error.retriable():
                    raise KafkaException(error)
    finally:
        reader.close()
