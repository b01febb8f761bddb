"""Items' counts with forward decay in event time: order-free and summable.

Source: Cormode, Shkapenyuk, Srivastava, Xu, "Forward Decay: A Practical Time Decay Model for Streaming Systems", ICDE
2009. An event at ts weighs 2 ** ((ts - landmark) / half_life); a sum of such weights is turned into the count as of
`ref_ms` by one factor. Additions since the last take are summed against a landmark of their own, then merged into the
item's record, whose `ref_ms` is the largest ts seen of the item: what is kept between takes is what was written.
"""

from collections.abc import Iterable
from itertools import chain
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from contract.messages import Popularity
from streams.verdicts import NEVER

MAX_EXPONENT: Final = 256  # half-lives from the landmark: weights and sums stay far inside a float's range


class Sums(NamedTuple):
    """What one item was counted since the last merge; weight against the common landmark."""

    times: int
    weight: float
    newest_ms: int


NOTHING: Final = Sums(0, 0.0, NEVER)


class Places(dict[str, int]):
    """A number from 0 on for each different item, in the order of first sight."""

    def __missing__(self, item: str) -> int:
        place = self[item] = len(self)
        return place


class PopularityCounts:
    """Decayed counts of the items of one partition; events are only noted, and summed at the next take."""

    def __init__(self, half_life_ms: int) -> None:
        self._half_life_ms = half_life_ms
        self._reach_ms = MAX_EXPONENT * half_life_ms
        self._landmark_ms: int | None = None
        self._first_ms, self._last_ms = 1, 0  # ts that the landmark reaches: none yet
        self._shown: list[list[str]] = []
        self._shown_ms: list[int] = []
        self._clicked: list[str] = []
        self._clicked_ms: list[int] = []
        self._merged: dict[str, Popularity] = {}
        self._dirty: set[str] = set()

    def exposure(self, items: list[str], ts_ms: int) -> None:
        """Count each shown item once for each time it stands in the list."""
        if not self._first_ms <= ts_ms <= self._last_ms:
            self._move_landmark(ts_ms)
        self._shown.append(items)
        self._shown_ms.append(ts_ms)

    def click(self, item: str, ts_ms: int) -> None:
        """Count one sample of the item, at the click's time."""
        if not self._first_ms <= ts_ms <= self._last_ms:
            self._move_landmark(ts_ms)
        self._clicked.append(item)
        self._clicked_ms.append(ts_ms)

    def restore(self, popularity: Iterable[tuple[str, Popularity]]) -> None:
        """Take over what the `popularity` topic holds for this partition."""
        self._merged.update(popularity)

    def take(self) -> dict[str, Popularity]:
        """Give the records of the items counted since the last take."""
        self._merge()
        taken = {item: self._merged[item] for item in self._dirty}
        self._dirty = set()
        return taken

    def _move_landmark(self, ts_ms: int) -> None:
        self._merge()
        self._landmark_ms, self._first_ms, self._last_ms = ts_ms, ts_ms - self._reach_ms, ts_ms + self._reach_ms

    def _merge(self) -> None:
        """Bring what was noted into the items' records."""
        half_life, landmark = self._half_life_ms, self._landmark_ms
        if landmark is None:
            return
        lengths = np.fromiter(map(len, self._shown), np.int64, len(self._shown))
        shown_ms = np.repeat(np.array(self._shown_ms, np.int64), lengths)
        exposures = self._sums(list(chain.from_iterable(self._shown)), shown_ms, landmark)
        clicks = self._sums(self._clicked, np.array(self._clicked_ms, np.int64), landmark)
        touched = exposures.keys() | clicks.keys()
        for item in touched:
            shown, clicked = exposures.get(item, NOTHING), clicks.get(item, NOTHING)
            newest = max(shown.newest_ms, clicked.newest_ms)
            old = self._merged.get(item)
            if old is None:
                old = Popularity(0, 0, 0.0, 0.0, newest)
            ref = max(old.ref_ms, newest)
            fade = 2.0 ** ((old.ref_ms - ref) / half_life)
            scale = 2.0 ** ((landmark - ref) / half_life)
            self._merged[item] = Popularity(
                old.exposures + shown.times,
                old.clicks + clicked.times,
                old.decayed_exposures * fade + shown.weight * scale,
                old.decayed_clicks * fade + clicked.weight * scale,
                ref,
            )
        self._dirty |= touched
        self._shown, self._shown_ms, self._clicked, self._clicked_ms = [], [], [], []
        self._landmark_ms, self._first_ms, self._last_ms = None, 1, 0

    def _sums(self, items: list[str], ts_ms: NDArray[Any], landmark_ms: int) -> dict[str, Sums]:
        """Count, weight and newest ts of each different item; `ts_ms` [len(items)]."""
        if not items:
            return {}
        places = Places()
        at = np.fromiter(map(places.__getitem__, items), np.int64, len(items))
        weights = np.exp2((ts_ms - landmark_ms) / self._half_life_ms)
        newest_ms = np.full(len(places), NEVER, np.int64)
        np.maximum.at(newest_ms, at, ts_ms)
        sums = zip(np.bincount(at).tolist(), np.bincount(at, weights).tolist(), newest_ms.tolist(), strict=True)
        return dict(zip(places, map(Sums._make, sums), strict=True))
