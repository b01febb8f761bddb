"""What a backfill prescribes to the loop: where each input stops, and the idle advances of the namespace it follows.

    <files>/backfill.json     written once by `headrace replay`, read by each worker of that namespace at its start

An idle advance is an event of its own (JOIN.md, Time): a replay that made its own ones by the clock would judge some
events otherwise than the namespace that it replays. So up to the last recorded one no clock counts here: both inputs
are read up to an advance's two positions, in any order, then it is made, and so on. Where an input stops, nothing
beyond is ever taken, and nothing is silent. A namespace without such a file is held to nothing.
"""

import os
from collections.abc import Callable
from pathlib import Path

import msgspec
from msgspec import Struct

from contract.errors import DataLossError
from contract.messages import Advance
from streams.verdicts import Source

FILE = "backfill.json"


class Plan(Struct, frozen=True, forbid_unknown_fields=True):
    """A backfill as it was asked for, and what followed from that; offsets are by partition number."""

    namespace: str
    source: str  # the namespace whose recorded advances are repeated
    since_ms: int | None  # arrival; None: the beginning of the logs
    until_ms: int | None
    follow: bool
    from_version: int | None
    starts: dict[str, list[int]]  # by raw topic: first record that is applied
    stops: dict[str, list[int]]  # by raw topic: first record that is not; empty: none, it follows
    needed: dict[str, list[int]]  # by raw topic: first record that is read, in silence up to `starts`
    advances: list[list[Advance]]  # by partition, in the order in which they were made
    ends: dict[str, list[int]]  # by raw topic: the end when it was planned


def save(files: Path, plan: Plan) -> None:
    """Write a plan whole: beside, fsync, rename."""
    files.mkdir(parents=True, exist_ok=True)
    beside = files / f".{FILE}.{os.getpid()}"
    with beside.open("wb") as out:
        out.write(msgspec.json.encode(plan))
        out.flush()
        os.fsync(out.fileno())
    beside.replace(files / FILE)


def load(files: Path) -> Plan | None:
    """Plan of a namespace; None where none was asked for. Raises DataLossError when it cannot be read."""
    try:
        return msgspec.json.decode((files / FILE).read_bytes(), type=Plan)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise DataLossError(
            f"{files / FILE} cannot be read ({error}): without it the backfill does not know where to stop; "
            "drop the namespace (`headrace drop NAME`) and replay it anew"
        ) from None


class Course:
    """Where each partition of a worker is on the course that a plan prescribes."""

    def __init__(self, plan: Plan | None) -> None:
        self._plan = plan
        self._next: dict[int, int] = {}  # by partition: which advance comes next

    def begin(self, partition: int, exposures: int, clicks: int) -> None:
        """Stand at two positions: every advance that was not made below them is still to come.

        One that was made exactly there, and committed, is made once more; that changes nothing.
        """
        if self._plan is None:
            return
        advances = self._plan.advances[partition]
        here = (exposures, clicks)
        passed = (
            a.exposures_position <= exposures
            and a.clicks_position <= clicks
            and (a.exposures_position, a.clicks_position) != here
            for a in advances
        )
        self._next[partition] = next((n for n, gone in enumerate(passed) if not gone), len(advances))

    def limit(self, source: str, partition: int) -> int | None:
        """First offset of an input that may not be taken yet; None: everything may."""
        if self._plan is None:
            return None
        stops = self._plan.stops.get(source)
        limit = stops[partition] if stops else None
        advance = self._coming(partition)
        if advance is None or source not in {"exposures", "clicks"}:
            return limit
        border = advance.exposures_position if source == "exposures" else advance.clicks_position
        return border if limit is None else min(border, limit)

    def due(self, partition: int, position: Callable[[Source], int]) -> Advance | None:
        """Take the next advance, if both inputs have come to it."""
        advance = self._coming(partition)
        if advance is None:
            return None
        if position("exposures") < advance.exposures_position or position("clicks") < advance.clicks_position:
            return None
        self._next[partition] += 1
        return advance

    def is_free(self, partition: int) -> bool:
        """Whether nothing more is prescribed, so that the clock tells silence again."""
        return self._plan is None or (not self._plan.stops and self._coming(partition) is None)

    def _coming(self, partition: int) -> Advance | None:
        if self._plan is None:
            return None
        advances, n = self._plan.advances[partition], self._next.get(partition, 0)
        return advances[n] if n < len(advances) else None
