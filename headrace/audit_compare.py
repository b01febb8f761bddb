"""What should be against what is: one comparison for every kind of record, and its tally."""

import math
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from contract.messages import History, Popularity, Sample
from headrace.offline_join import Count

MAX_EXAMPLES = 5
RELATIVE_TOLERANCE = 1e-6  # of decayed counts: floating-point sums in another order
ABSOLUTE_TOLERANCE = 1e-9
MAX_EXPONENT = 1_000

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
W = TypeVar("W")


class Check(Struct):
    """One row of the audit: how many there should be and are, and in which way they differ."""

    part: str
    what: str
    expected: int = 0
    found: int = 0
    missing: int = 0
    extra: int = 0
    duplicated: int = 0
    different: int = 0
    examples: list[str] = []

    @property
    def differences(self) -> int:
        """All of them."""
        return self.missing + self.extra + self.duplicated + self.different

    def example(self, text: str) -> None:
        """Keep one of the first few differences, for people."""
        if len(self.examples) < MAX_EXAMPLES:
            self.examples.append(text)


def compare(
    check: Check,
    where: str,
    expected: Mapping[K, V],
    found: Iterable[tuple[K, W]],
    same: Callable[[V, W], bool] = lambda wanted, came: wanted == came,
) -> None:
    """Tally found records against the expected ones by key; each key may be found once."""
    left = dict(expected)
    check.expected += len(left)
    for key, value in found:
        check.found += 1
        if key in left:
            wanted = left.pop(key)
            if not same(wanted, value):
                check.different += 1
                check.example(f"{where} {key}: expected {_short(wanted)}, found {_short(value)}")
        elif key in expected:
            check.duplicated += 1
            check.example(f"{where} {key}: once more")
        else:
            check.extra += 1
            check.example(f"{where} {key}: not expected, found {_short(value)}")
    check.missing += len(left)
    for key, wanted in left.items():
        check.example(f"{where} {key}: missing, expected {_short(wanted)}")


def same_sample(deleted: set[str]) -> Callable[[Sample, Sample], bool]:
    """Samples are equal field by field; of deleted users but for the history, which the deletion emptied."""

    def same(wanted: Sample, came: Sample) -> bool:
        if wanted.user_id in deleted:
            return replace(wanted, history=[]) == replace(came, history=[])
        return wanted == came

    return same


def same_history(clicks: int, shown: int) -> Callable[[History, History], bool]:
    """Histories are equal in their last `clicks` and `shown` entries; a record holds more while clicks are held."""

    def same(wanted: History, came: History) -> bool:
        return _last(wanted.clicks, clicks) == _last(came.clicks, clicks) and _last(wanted.shown, shown) == _last(
            came.shown, shown
        )

    return same


def same_counts(ref_ms: int, half_life_ms: int) -> Callable[[Count, Popularity], bool]:
    """Counts are equal; decayed ones, put to one date, but for the order of summation."""

    def same(wanted: Count, came: Popularity) -> bool:
        exponent = (came.ref_ms - ref_ms) / half_life_ms
        factor = 2.0 ** max(-MAX_EXPONENT, min(MAX_EXPONENT, exponent))
        return (
            (wanted.exposures, wanted.clicks) == (came.exposures, came.clicks)
            and _close(wanted.decayed_exposures, came.decayed_exposures * factor)
            and _close(wanted.decayed_clicks, came.decayed_clicks * factor)
        )

    return same


def _close(wanted: float, came: float) -> bool:
    return math.isclose(wanted, came, rel_tol=RELATIVE_TOLERANCE, abs_tol=ABSOLUTE_TOLERANCE)


def _last(entries: list[Any], count: int) -> list[Any]:
    return entries[max(0, len(entries) - count) :]


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 200 else f"{text[:200]}..."  # noqa: PLR2004
