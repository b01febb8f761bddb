"""The messages on every topic. The type is the schema: decoding checks it once, at streams' door.

Raw topics carry JSON objects, so any language can write them; unknown fields are ignored, new fields of ours come with
a default. Inside topics carry msgpack arrays (`array_like`): new fields go at the end, with a default.

Units: `_ms` epoch milliseconds of event time unless the name says arrival. Offsets are Kafka offsets of the raw topics.
"""

from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from contract.errors import BadInputError

MAX_ID_BYTES = 256
MAX_ITEMS_SHOWN = 1_000
MAX_FEATURES = 256
MAX_FEATURE_VALUES = 256
MIN_TS_MS = 631_152_000_000  # 1990-01-01T00:00:00Z
MAX_TS_MS = 1 << 53  # what JSON numbers hold exactly in every language; "ahead" catches earlier ones

Id = Annotated[str, Meta(min_length=1, max_length=MAX_ID_BYTES, description="UTF-8, 1 to 256 bytes")]
TsMs = Annotated[int, Meta(ge=MIN_TS_MS, le=MAX_TS_MS, description="event time, epoch milliseconds, from 1990 on")]
Int64 = Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)]  # what msgpack holds with a sign; larger: use a string
Scalar = str | bool | Int64 | float
Features = Annotated[
    dict[str, Scalar | Annotated[list[Scalar], Meta(max_length=MAX_FEATURE_VALUES)]], Meta(max_length=MAX_FEATURES)
]
Action = Literal["click", "like", "favourite", "share"]
ACTIONS: tuple[Action, ...] = ("click", "like", "favourite", "share")


# ---- raw: JSON, written by users -------------------------------------------------------------------------------------


class Exposure(Struct, frozen=True, gc=False):
    """One request's items as they were shown to the user, in shown order."""

    request_id: Id
    user_id: Id
    ts_ms: TsMs
    items: Annotated[list[Id], Meta(min_length=1, max_length=MAX_ITEMS_SHOWN)]
    context: Features = {}


class Click(Struct, frozen=True, gc=False):
    """One action of a user on an item; `request_id` names the exposure it answers, where the client knows it."""

    user_id: Id
    item_id: Id
    ts_ms: TsMs
    action: Action = "click"
    request_id: Id | None = None
    context: Features = {}


class Item(Struct, frozen=True, gc=False):
    """An item's features; also the record on `catalogue` (as msgpack)."""

    item_id: Id
    ts_ms: TsMs
    features: Features = {}


class User(Struct, frozen=True, gc=False):
    """A user's features; also the record on `profiles` (as msgpack)."""

    user_id: Id
    ts_ms: TsMs
    features: Features = {}


class RankingDrop(Struct, frozen=True, gc=False):
    """Items that pre-rank or rank threw out for a request: hard negatives, never exposed-but-not-clicked ones."""

    user_id: Id
    ts_ms: TsMs
    items: Annotated[list[Id], Meta(min_length=1, max_length=MAX_ITEMS_SHOWN)]
    request_id: Id | None = None
    stage: Literal["pre-rank", "rank"] = "pre-rank"


# ---- inside: msgpack arrays, written by the rooms --------------------------------------------------------------------


class HistoryEntry(Struct, frozen=True, array_like=True, gc=False):
    """One click as it entered the user's history."""

    item_id: str
    ts_ms: int
    action: str


class Sample(Struct, frozen=True, array_like=True, tag="sample", gc=False):
    """One engaged (request, item). Its id is (user_id, request_id, exposure_ts_ms, item_id).

    Click-only mode: request_id is "", exposure_ts_ms = ts_ms, position and exposure_offset are -1.
    """

    user_id: str
    request_id: str
    exposure_ts_ms: int
    item_id: str
    ts_ms: int  # the click's
    action: str
    position: int  # of the item among the shown, from 0
    history: list[HistoryEntry]  # strictly before the exposure, oldest first, at most L
    context: dict[str, Any]  # the exposure's (click-only: the click's)
    arrival_ms: int  # the click record's Kafka timestamp
    exposure_offset: int
    click_offset: int


class HardNegatives(Struct, frozen=True, array_like=True, tag="drops", gc=False):
    """A checked ranking-drop."""

    user_id: str
    ts_ms: int
    items: list[str]
    offset: int
    request_id: str = ""
    stage: str = "pre-rank"


class Advance(Struct, frozen=True, array_like=True, gc=False):
    """An idle advance (JOIN.md): stream time `w_ms` on what was read below the two positions."""

    exposures_position: int
    clicks_position: int
    w_ms: int
    idle: Literal["exposures", "clicks", "both"]


class Marker(Struct, frozen=True, array_like=True, tag="marker", gc=False):
    """How far a partition is: written in a transaction that changed its progress, idle flag or advances, or deleted."""

    progress_ms: int | None  # the larger M_x; None before the first valid event
    idle: bool  # every input of the join is idle
    advances: list[Advance] = []  # made in this transaction, in order
    arrival_ms: int = 0  # newest arrival among the records of this transaction
    deleted: list[str] = []  # users whose history this transaction deleted; compaction takes other traces


SampleRecord = Sample | HardNegatives | Marker


class ItemScore(Struct, frozen=True, array_like=True, gc=False):
    """An item's final interest score: the number of different actions on it, 0 to 4."""

    item_id: str
    score: int


class Outcome(Struct, frozen=True, array_like=True, gc=False):
    """One exposure whose window has closed, with each item's score, in shown order."""

    user_id: str
    request_id: str
    ts_ms: int
    items: list[ItemScore]
    exposure_offset: int
    context: dict[str, Any] = {}


class Popularity(Struct, frozen=True, array_like=True, gc=False):
    """One input partition's share of an item's counts; a reader sums over partitions.

    `decayed_clicks` is forward-decayed (Cormode et al. 2009): its value as of `ref_ms`; as of a later t it is
    `decayed_clicks * 2 ** -((t - ref_ms) / half_life_ms)`.
    """

    exposures: int
    clicks: int
    decayed_exposures: float
    decayed_clicks: float
    ref_ms: int


class RingEntry(Struct, frozen=True, array_like=True, gc=False):
    """A click as taken into the ring, with its offset on `clicks`."""

    offset: int
    item_id: str
    ts_ms: int
    action: str
    request_id: str | None = None


class ShownEntry(Struct, frozen=True, array_like=True, gc=False):
    """The items of one accepted exposure, with its offset on `exposures`."""

    offset: int
    ts_ms: int
    items: list[str]


class History(Struct, frozen=True, array_like=True, gc=False):
    """A user's ring of clicks and last exposures, both by offset, oldest first (JOIN.md, History)."""

    clicks: list[RingEntry]
    shown: list[ShownEntry] = []


class Served(Struct, frozen=True, array_like=True, gc=False):
    """On `control` under the key `served`: which version of which namespace is answered from."""

    namespace: str
    version: int
    previous: int  # what a rollback goes to; 0: none
    ts_ms: int  # wall time of the decision
    previous_namespace: str = ""  # of `previous`, where that is another one: this namespace was promoted


T = TypeVar("T")

RAW_TYPES: dict[str, type[Struct]] = {
    "exposures": Exposure,
    "clicks": Click,
    "items": Item,
    "users": User,
    "ranking-drops": RankingDrop,
}
_json_decoders: dict[type, msgspec.json.Decoder[Any]] = {t: msgspec.json.Decoder(t) for t in RAW_TYPES.values()}
_msgpack_encode = msgspec.msgpack.Encoder().encode
_json_encode = msgspec.json.Encoder().encode


def encode_json(message: Struct) -> bytes:
    """JSON bytes of a raw message."""
    return _json_encode(message)


def encode(message: Struct) -> bytes:
    """Msgpack bytes of an inside message."""
    return _msgpack_encode(message)


def decoder(kind: Any) -> "msgspec.msgpack.Decoder[Any]":
    """Make a msgpack decoder of an inside type; make it once, use it often."""
    return msgspec.msgpack.Decoder(kind)


def ids_of(message: Struct) -> list[str]:
    """All ids that a raw message carries."""
    match message:
        case Exposure():
            return [message.request_id, message.user_id, *message.items]
        case Click():
            return [message.user_id, message.item_id, *([message.request_id] if message.request_id else [])]
        case RankingDrop():
            return [message.user_id, *message.items, *([message.request_id] if message.request_id else [])]
        case Item():
            return [message.item_id]
        case User():
            return [message.user_id]
        case _:
            raise TypeError(type(message).__name__)


def decode_raw(kind: type[T], value: bytes) -> T:
    """Decode and check one raw JSON message.

    Raises BadInputError whose text says what was wanted, what came and where.
    """
    try:
        message: T = _json_decoders[kind].decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadInputError(str(error)) from None
    for text in ids_of(message):  # type: ignore[arg-type]
        # Meta counts characters; the limit is bytes. ASCII ids, the common case, are decided by their length.
        if not text.isascii() and len(text.encode("utf-8", "surrogatepass")) > MAX_ID_BYTES:
            raise BadInputError(f"Expected an id of at most {MAX_ID_BYTES} UTF-8 bytes, got {len(text.encode())}")
    return message


def json_schemas() -> dict[str, dict[str, Any]]:
    """JSON Schema (2020-12) of each raw topic's message, by topic."""
    return {topic: msgspec.json.schema(kind) for topic, kind in RAW_TYPES.items()}
