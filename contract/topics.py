"""The one list of topics. README's table is generated from it (`headrace topics --markdown`), a test compares.

Raw topics are the user's and carry no namespace. Everything derived, dead letters included, is named
`<prefix><namespace>.<topic>`, so that a backfill runs beside the live one.
"""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["raw", "derived", "dlq"]
MONTH_MS = 30 * 86_400_000


@dataclass(frozen=True, slots=True)
class Topic:
    """What a topic is for and how it is laid out."""

    name: str
    key: str
    writer: str
    readers: str
    what: str
    kind: Kind
    compacted: bool = False
    partitions: Literal["inputs", "one"] = "inputs"  # the shared partition count, or one
    retention_ms: int | None = None  # None: the cluster's default


TOPICS: tuple[Topic, ...] = (
    Topic(
        "exposures",
        "user_id",
        "you",
        "streams",
        "what was shown: request_id, user_id, ts_ms, items in shown order, context",
        "raw",
    ),
    Topic(
        "clicks",
        "user_id",
        "you",
        "streams",
        "what was done: user_id, item_id, ts_ms, action click, like, favourite or share; optional request_id, context",
        "raw",
    ),
    Topic(
        "items", "item_id", "you", "streams", "item_id, ts_ms, features; an empty record deletes", "raw", compacted=True
    ),
    Topic(
        "users", "user_id", "you", "streams", "user_id, ts_ms, features; an empty record deletes", "raw", compacted=True
    ),
    Topic("ranking-drops", "user_id", "you", "streams", "items that pre-rank or rank threw out: hard negatives", "raw"),
    Topic("catalogue", "item_id", "streams", "trainer, publisher", "items, checked", "derived", compacted=True),
    Topic("profiles", "user_id", "streams", "streams, trainer, publisher", "users, checked", "derived", compacted=True),
    Topic(
        "samples",
        "user_id",
        "streams",
        "trainer",
        "one per engaged (request, item), with the history before the exposure; hard negatives; progress markers",
        "derived",
        retention_ms=MONTH_MS,  # a full update reads the days again that it was put off for
    ),
    Topic(
        "outcomes",
        "user_id",
        "streams",
        "you",
        "one per exposure when its window closes: each item's score 0 to 4",
        "derived",
    ),
    Topic(
        "popularity",
        "item_id",
        "streams",
        "publisher, you",
        "exposures, clicks and forward-decayed counts, one partial per input partition",
        "derived",
        compacted=True,
    ),
    Topic(
        "histories",
        "user_id",
        "streams",
        "publisher",
        "a user's last clicked and last shown items",
        "derived",
        compacted=True,
    ),
    Topic(
        "updates",
        "version/sequence/chunk",
        "trainer",
        "publisher, server",
        "snapshots and deltas of the model",
        "derived",
        compacted=True,
        partitions="one",
    ),
    Topic(
        "control",
        "what",
        "publisher, commands",
        "all",
        "which version of which namespace is served",
        "raw",
        compacted=True,
        partitions="one",
    ),
    Topic(
        "exposures.dlq",
        "as it came",
        "streams",
        "you",
        "exposures refused, original bytes, the reason in the headers",
        "dlq",
    ),
    Topic("clicks.dlq", "as it came", "streams", "you", "clicks refused or never matched", "dlq"),
    Topic("items.dlq", "as it came", "streams", "you", "items refused", "dlq"),
    Topic("users.dlq", "as it came", "streams", "you", "users refused", "dlq"),
    Topic("ranking-drops.dlq", "as it came", "streams", "you", "ranking-drops refused", "dlq"),
)
BY_NAME: dict[str, Topic] = {topic.name: topic for topic in TOPICS}
RAW_INPUTS = ("exposures", "clicks", "items", "users", "ranking-drops")


@dataclass(frozen=True, slots=True)
class Names:
    """Physical names of topics, groups, transactional ids and Redis keys of one namespace."""

    prefix: str = ""
    namespace: str = "live"

    def topic(self, name: str) -> str:
        """Physical topic name of a logical one; KeyError if there is no such topic."""
        topic = BY_NAME[name]
        return f"{self.prefix}{name}" if topic.kind == "raw" else f"{self.prefix}{self.namespace}.{name}"

    def group(self, role: str) -> str:
        """Consumer group of a role: streams, streams-check (Faust's agents), trainer, publisher."""
        return f"{self.prefix}{self.namespace}.{role}"

    def transactional_id(self, role: str, slot: int = 0) -> str:
        """The one transactional id (and group.instance.id) of a supervised slot."""
        return f"{self.prefix}{self.namespace}.{role}-{slot}"

    def key(self, *parts: object) -> str:
        """Redis key under this namespace."""
        return ":".join((f"headrace:{self.prefix}{self.namespace}", *map(str, parts)))
