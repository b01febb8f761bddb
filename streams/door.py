"""The door: what a raw record must be before anything else looks at it (JOIN.md, the first two verdicts).

bytes ── decodes? ids short enough? ──no──> Refused("broken")
      ── its id hashes to the partition it lies on? ──no──> Refused("wrong_partition")
      ──> event
"""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import msgspec

from contract.errors import BadInputError
from contract.kafka import partition_of
from contract.messages import Click, Exposure, RankingDrop, User, decode_raw

MAX_EVENT_BYTES = 2_000_000  # twice the broker's default limit; so a sample or outcome fits DERIVED_MAX_BYTES
MAX_HOMES = 1_000_000

T = TypeVar("T", Exposure, Click, RankingDrop, User)


class Refused(BadInputError):  # noqa: N818  (a verdict)
    """A record that goes to the DLQ: `reason` is broken or wrong_partition, the text says what was wanted and came."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class Homes(dict[str, int]):
    """Partition of each user id, computed once: murmur2 in Python costs more than the rest of the door."""

    def __init__(self, partitions: int) -> None:
        super().__init__()
        self._partitions = partitions

    def __missing__(self, user_id: str) -> int:
        if len(self) >= MAX_HOMES:
            self.clear()
        home = self[user_id] = partition_of(user_id.encode(), self._partitions)
        return home


class Door(Generic[T]):
    """Checks the records of one raw topic; one instance for all its partitions."""

    def __init__(self, kind: type[T], homes: Homes) -> None:
        self._kind: type[T] = kind
        self._decode: Callable[[Any], T] = msgspec.json.Decoder(kind).decode
        self._homes = homes

    def enter(self, value: bytes | None, partition: int) -> T:
        """Event of a record's bytes; raises Refused."""
        try:
            event = self._decode(value)
        except (msgspec.DecodeError, UnicodeDecodeError, TypeError):
            raise self._broken(value) from None
        assert value is not None  # noqa: S101  (it did decode)
        # Long ids hide only in bytes beyond ASCII or in \u escapes; the rest was checked while it was decoded.
        if not value.isascii() or b"\\u" in value or len(value) > MAX_EVENT_BYTES:
            self._look_closely(value)
        if self._homes[event.user_id] != partition:
            home = self._homes[event.user_id]
            raise Refused(
                "wrong_partition",
                f"Expected partition {home} for user_id {event.user_id!r} (murmur2), got {partition}: "
                "set the producer's partitioner to murmur2_random",
            )
        return event

    def _look_closely(self, value: bytes) -> None:
        if len(value) > MAX_EVENT_BYTES:
            raise Refused("broken", f"Expected at most {MAX_EVENT_BYTES} bytes, got {len(value)}")
        try:
            decode_raw(self._kind, value)
        except BadInputError as error:
            raise Refused("broken", str(error)) from None

    def _broken(self, value: bytes | None) -> Refused:
        if value is None:
            return Refused("broken", "Expected a JSON object, got an empty record")
        try:
            decode_raw(self._kind, value)
        except BadInputError as error:
            return Refused("broken", str(error))
        raise AssertionError("decoded after all")
