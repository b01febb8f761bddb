"""Items' counts with forward decay in event time: order-free and summable.

Source: Cormode, Shkapenyuk, Srivastava, Xu, "Forward Decay: A Practical Time Decay Model for Streaming Systems", ICDE
2009. An event at ts weighs 2 ** ((ts - landmark) / half_life); a sum of such weights is turned into the count as of
`ref_ms` by one factor. Additions since the last take are summed against a landmark of their own, then merged into the
item's record, whose `ref_ms` is the largest ts seen of the item: what is kept between takes is what was written.
"""

from collections.abc import Iterable
from typing import Final

from msgspec import Struct

from contract.messages import Popularity

MAX_EXPONENT: Final = 256  # half-lives from the landmark: weights and sums stay far inside a float's range


class Added(Struct, gc=False):
    """What was counted since the last take; weights against the common landmark."""

    exposures: int
    clicks: int
    exposure_weight: float
    click_weight: float
    newest_ms: int


class PopularityCounts:
    """Decayed counts of the items of one partition."""

    def __init__(self, half_life_ms: int) -> None:
        self._half_life_ms = half_life_ms
        self._reach_ms = MAX_EXPONENT * half_life_ms
        self._landmark_ms: int | None = None
        self._added: dict[str, Added] = {}
        self._merged: dict[str, Popularity] = {}
        self._dirty: set[str] = set()

    def exposure(self, items: list[str], ts_ms: int) -> None:
        """Count each shown item once for each time it stands in the list."""
        weight = self._weight(ts_ms)
        added = self._added
        for item in items:
            counted = added.get(item)
            if counted is None:
                added[item] = Added(1, 0, weight, 0.0, ts_ms)
                continue
            counted.exposures += 1
            counted.exposure_weight += weight
            if ts_ms > counted.newest_ms:  # noqa: PLR1730  (max() costs a quarter of this loop)
                counted.newest_ms = ts_ms

    def click(self, item: str, ts_ms: int) -> None:
        """Count one sample of the item, at the click's time."""
        weight = self._weight(ts_ms)
        counted = self._added.get(item)
        if counted is None:
            self._added[item] = Added(0, 1, 0.0, weight, ts_ms)
            return
        counted.clicks += 1
        counted.click_weight += weight
        counted.newest_ms = max(counted.newest_ms, ts_ms)

    def restore(self, popularity: Iterable[tuple[str, Popularity]]) -> None:
        """Take over what the `popularity` topic holds for this partition."""
        self._merged.update(popularity)

    def take(self) -> dict[str, Popularity]:
        """Give the records of the items counted since the last take."""
        self._merge()
        taken = {item: self._merged[item] for item in self._dirty}
        self._dirty = set()
        return taken

    def _weight(self, ts_ms: int) -> float:
        landmark = self._landmark_ms
        if landmark is None or not -self._reach_ms < ts_ms - landmark < self._reach_ms:
            self._merge()
            landmark = self._landmark_ms = ts_ms
        return float(2.0 ** ((ts_ms - landmark) / self._half_life_ms))

    def _merge(self) -> None:
        half_life, landmark = self._half_life_ms, self._landmark_ms
        if landmark is None:
            return
        for item, added in self._added.items():
            old = self._merged.get(item)
            if old is None:
                old = Popularity(0, 0, 0.0, 0.0, added.newest_ms)
            ref = max(old.ref_ms, added.newest_ms)
            fade = 2.0 ** ((old.ref_ms - ref) / half_life)
            scale = 2.0 ** ((landmark - ref) / half_life)
            self._merged[item] = Popularity(
                old.exposures + added.exposures,
                old.clicks + added.clicks,
                old.decayed_exposures * fade + added.exposure_weight * scale,
                old.decayed_clicks * fade + added.click_weight * scale,
                ref,
            )
        self._dirty.update(self._added)
        self._added = {}
        self._landmark_ms = None
