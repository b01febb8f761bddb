"""What goes into the join and what comes out of it: its rules, records, verdicts and commit."""

from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

from contract.messages import Click, Exposure, History, Marker, Outcome, Popularity, Sample

Source = Literal["exposures", "clicks"]
NEVER: Final = -(1 << 62)  # event time before the first event; an int, so that every comparison stays between ints


@dataclass(frozen=True, slots=True)
class Rules:
    """The settings of one join (JOIN.md): event time in ms, lengths in events."""

    window_ms: int
    lateness_ms: int
    max_skew_ms: int
    history_length: int
    shown_exposures: int
    half_life_ms: int
    clicks_only: bool = False


class DeadLetter(NamedTuple):
    """A record that will never become a sample. Reasons: broken wrong_partition poison ahead late (at the door, either
    source), orphan closed_while_idle (clicks). `raw` is what the edge gave with the record, untouched.
    """  # noqa: D205

    source: Source
    offset: int
    reason: str
    text: str
    raw: Any


@dataclass(slots=True)
class Batch:
    """Everything decided since the last take, for one transaction."""

    samples: list[Sample]
    outcomes: list[Outcome]
    dead_letters: list[DeadLetter]
    histories: dict[str, History | None]  # by user; None: a tombstone
    popularity: dict[str, Popularity]  # by item, absolute
    marker: Marker | None  # when progress, the idle flag or the advances changed, or a user was deleted


class Commit(NamedTuple):
    """Offsets and metadata (at most 4,095 characters each) that belong to the batches taken so far."""

    exposures_position: int
    exposures_metadata: str
    clicks_position: int
    clicks_metadata: str


class Record(NamedTuple):
    """One record of a re-read. `event` None: refused at the door by the edge, passed over in silence."""

    offset: int
    arrival_ms: int
    event: Exposure | Click | None
    reason: str
    text: str
    raw: Any
