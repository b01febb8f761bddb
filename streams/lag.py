"""How far a consumer group is (pure): offsets in, rows of kafka-consumer-groups out, and seconds behind.

Transaction markers take offsets but are no records: what counts is the first *record* at or after the committed offset.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from msgspec import Struct


@dataclass(frozen=True, slots=True)
class Observed:
    """One partition of a group as read from the cluster."""

    group: str
    topic: str
    partition: int
    committed: int | None  # None: never committed
    start: int  # oldest offset that the log still holds
    end: int  # last stable offset
    first_offset: int | None  # of the first committed record at or after `committed`; None: there is none
    first_ms: int | None  # its Kafka timestamp
    records: int | None = None  # committed records from there to `end`, where they were counted


class Row(Struct, frozen=True):
    """A row of `headrace lag`; `lag` in records, `behind_s` from the first unread record's arrival to now."""

    group: str
    topic: str
    partition: int
    committed: int | None
    end: int
    lag: int
    behind_s: float


def row(observed: Observed, now_ms: int) -> Row:
    """Judge one partition: lag 0 when no record is left to read, whatever markers follow."""
    if observed.first_offset is None:
        lag, behind_s = 0, 0.0
    else:
        lag = observed.end - observed.first_offset if observed.records is None else observed.records
        behind_s = max(0.0, (now_ms - observed.first_ms) / 1000) if observed.first_ms else 0.0
    return Row(
        observed.group, observed.topic, observed.partition, observed.committed, observed.end, lag, round(behind_s, 3)
    )


def total(rows: Iterable[Row]) -> int:
    """Lag of all rows together."""
    return sum(one.lag for one in rows)
