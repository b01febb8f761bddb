"""The join's commit metadata: what a silent re-read starts from, in at most 4,095 characters per input.

Compact JSON, one array for each input; `null` stands for "no event yet".

    [1, oldest needed offset, M before it, [totals in the order of TOTALS], [idle advances, flat]]

Totals stand with the exposures (click-only mode, which commits no exposures: with the clicks), advances with the
clicks. An advance is four numbers: exposure position, click position, w, who is idle (place in IDLE). The first advance
is absolute, each other one is the difference to the one before, so that hundreds fit.
"""

from collections.abc import Iterator, Sequence
from itertools import chain, pairwise
from typing import Any, Final, NamedTuple

import msgspec

from contract.errors import RefusedError
from contract.kafka import METADATA_MAX_CHARS
from contract.messages import Advance
from streams.verdicts import NEVER, Commit

TOTALS: Final = ("exposures", "clicks", "samples", "outcomes", "dead_letters", "exposure_repeats", "click_repeats")
IDLE: Final = ("exposures", "clicks", "both")
VERSION: Final = 1
MAX_CHARS: int = METADATA_MAX_CHARS
FIXED_CHARS: Final = 192  # version, oldest, M, brackets, and two advances with each number at its full 19 digits


class Start(NamedTuple):
    """Where a re-read of one input begins."""

    oldest: int
    before_ms: int  # M before that offset; NEVER: none
    totals: dict[str, int]  # empty where the other input carries them
    advances: list[Advance]


def encode(start: Start) -> str:
    """Metadata of one input."""
    before = None if start.before_ms == NEVER else start.before_ms
    totals = [start.totals[name] for name in TOTALS] if start.totals else []
    first = start.advances[:1]
    flat = [n for a in first for n in _numbers(a)] + list(chain(*_steps(start.advances)))
    return msgspec.json.encode([VERSION, start.oldest, before, totals, flat]).decode()


def decode(metadata: str) -> Start:
    """Inverse of `encode`. Raises RefusedError if the text is not ours: somebody reset the group's offsets."""
    try:
        version, oldest, before, totals, flat = msgspec.json.decode(
            metadata, type=tuple[int, int, int | None, Any, Any]
        )
        if version != VERSION:
            raise ValueError(f"version {version}")  # noqa: TRY301  (one refusal for everything that is not ours)
        named = dict(zip(TOTALS, totals, strict=True)) if totals else {}
        return Start(oldest, NEVER if before is None else before, named, list(_advances(flat)))
    except (msgspec.MsgspecError, ValueError, TypeError, IndexError) as error:
        raise RefusedError(
            f"a committed offset carries metadata that headrace did not write ({metadata[:60]!r}: {error}); was the "
            "group reset by a tool? start a new namespace (--namespace NAME), which replays the raw topics"
        ) from None


def decode_commit(commit: Commit) -> tuple[Start, Start]:
    """Starts of (exposures, clicks). Raises RefusedError as `decode` does; click-only mode has no exposures."""
    clicks = decode(commit.clicks_metadata)
    if clicks.totals and not commit.exposures_metadata:
        return Start(0, NEVER, {}, []), clicks
    return decode(commit.exposures_metadata), clicks


def needed_from(commit: Commit) -> tuple[int, int]:
    """Oldest offsets that a rebuild needs to read: (exposures, clicks)."""
    exposures, clicks = decode_commit(commit)
    return exposures.oldest, clicks.oldest


def totals_of(exposures_metadata: str) -> dict[str, int]:
    """Exact totals as of a commit, for `status`; in click-only mode give the clicks' metadata."""
    return dict(decode(exposures_metadata).totals)


def fits(advances: Sequence[Advance]) -> bool:
    """Whether these advances fit into metadata now and, whichever are dropped or replace the last, later on.

    Dropping one never lengthens the rest (a sum has no more digits than its parts together), but for the first, which
    is absolute: it and the last, which another may replace, are counted at full length.
    """
    return FIXED_CHARS + sum(len(str(number)) + 1 for number in chain(*_steps(advances[:-1]))) <= MAX_CHARS


def _numbers(advance: Advance) -> tuple[int, int, int, int]:
    return advance.exposures_position, advance.clicks_position, advance.w_ms, IDLE.index(advance.idle)


def _steps(advances: Sequence[Advance]) -> Iterator[tuple[int, int, int, int]]:
    """Advances from the second on, as differences."""
    for before, after in pairwise(advances):
        x, c, w, _ = _numbers(before)
        to_x, to_c, to_w, idle = _numbers(after)
        yield to_x - x, to_c - c, to_w - w, idle


def _advances(flat: list[int]) -> Iterator[Advance]:
    x = c = w = 0
    for at in range(0, len(flat), 4):
        by_x, by_c, by_w, idle = flat[at : at + 4]
        x, c, w = x + by_x, c + by_c, w + by_w
        yield Advance(x, c, w, IDLE[idle])
