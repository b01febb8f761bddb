"""Which samples make a day, and when a full update is due. Pure; days follow event time in a named zone.

Kept of every sample since the last full update: partition, offset, day. A day border is passed when `Merge.passed_ms`
is past it. Samples that come for a day already passed belong to the day that is being gathered. Days with fewer than
`min_samples` are merged into the next; a jump over years is one border. How the model and popularity ranked each sample
before it was learned is kept as well: the gate asks whether the day is anybody's taste.
"""

from array import array
from dataclasses import astuple
from datetime import datetime
from typing import NamedTuple
from zoneinfo import ZoneInfo

import numpy as np

from trainer.frequency import I64
from trainer.gate import K, Paired

MS = 1_000
POPULARITY, MODEL, NOT_SCORED = 1, 2, -1  # hits of a sample


class Picks(NamedTuple):
    """Samples by partition and offset [n], in the order in which they were learned."""

    partition: I64
    offset: I64

    def places(self) -> list[tuple[int, int]]:
        """All (partition, offset)."""
        return list(zip(self.partition.tolist(), self.offset.tolist(), strict=True))


class Days:
    """What has been gathered, and the day that stream time is in."""

    def __init__(self, time_zone: str, min_samples: int) -> None:
        self.zone, self.min_samples = ZoneInfo(time_zone), min_samples
        self.today = 0  # day ordinal of stream time; 0: before the first
        self.next_ms = 0  # event time of the next border
        self.partition, self.offset, self.day, self.hits = array("q"), array("q"), array("q"), array("b")
        self.fits = (Paired(), Paired())  # popularity and the model: the day taken last, and the one taken before

    def day_of(self, ts_ms: int) -> int:
        """Ordinal of the local date."""
        return datetime.fromtimestamp(ts_ms // 1000, self.zone).toordinal()

    def add(self, partition: int, offset: int, ts_ms: int, rank: int = 0, popularity_rank: int = 0) -> None:
        """A sample is learned, which had these ranks before; 0: it was not ranked."""
        hits = MODEL * (rank <= K) + POPULARITY * (popularity_rank <= K)
        self.hits.append(hits if rank else NOT_SCORED)
        self.partition.append(partition)
        self.offset.append(offset)
        self.day.append(max(self.day_of(ts_ms), self.today))

    def passed(self, passed_ms: int) -> bool:
        """Move stream time on; give whether a full update is due."""
        today = self.day_of(passed_ms)
        if today <= self.today:
            return False
        self._move(today)
        return self.due()

    def _move(self, today: int) -> None:
        self.today = today
        midnight = datetime.fromordinal(today + 1).replace(tzinfo=self.zone)
        self.next_ms = int(midnight.timestamp()) * MS

    def due(self) -> bool:
        """Whether the days passed hold enough samples for a full update."""
        return int(np.count_nonzero(self._days() < self.today)) >= self.min_samples

    def take(self) -> tuple[Picks, Picks]:
        """Samples of the days passed, which are forgotten here, and those since."""
        over = self._days() < self.today
        partition, offset = np.array(self.partition, np.int64), np.array(self.offset, np.int64)
        day, since = Picks(partition[over], offset[over]), Picks(partition[~over], offset[~over])
        hits = np.array(self.hits, np.int64)
        self.fits = _paired(hits[over]), self.fits[0]
        self._keep(since, self._days()[~over], hits[~over])
        return day, since

    def ask(self, places: list[tuple[int, int]], *, keep: bool) -> tuple[Picks, Picks]:
        """Samples of a full update out of turn: those at `places`, or all gathered; and the rest of these.

        What is learned is forgotten here, but with `keep`.
        """
        gathered = Picks(np.array(self.partition, np.int64), np.array(self.offset, np.int64))
        wanted = set(places or gathered.places())
        over = np.array([at in wanted for at in gathered.places()], bool)
        day = Picks(*(np.array(part, np.int64) for part in zip(*places, strict=True))) if places else gathered
        since = Picks(gathered.partition[~over], gathered.offset[~over])
        if not keep:
            self._keep(since, self._days()[~over], np.array(self.hits, np.int64)[~over])
        return day, since

    def _keep(self, since: Picks, days: I64, hits: I64) -> None:
        arrays = (since.partition, since.offset, days)
        self.partition, self.offset, self.day = (array("q", values.tolist()) for values in arrays)
        self.hits = array("b", hits.tolist())

    def _days(self) -> I64:
        return np.array(self.day, np.int64)

    def state(self) -> dict[str, I64]:
        """Arrays for a checkpoint."""
        return {
            "today": np.array([self.today], np.int64),
            "partition": np.array(self.partition, np.int64),
            "offset": np.array(self.offset, np.int64),
            "day": self._days(),
            "hits": np.array(self.hits, np.int64),
            "fits": np.array([astuple(fit) for fit in self.fits], np.int64),
        }

    def load(self, state: dict[str, I64]) -> None:
        """Take what `state` gave."""
        if today := int(state["today"][0]):
            self._move(today)
        self.partition, self.offset, self.day = (
            array("q", state[name].tolist()) for name in ("partition", "offset", "day")
        )
        hits = state.get("hits", np.full(len(self.day), NOT_SCORED))  # an older checkpoint knows none
        self.hits = array("b", hits.tolist())
        if "fits" in state:
            day, before = (Paired(*fit) for fit in state["fits"].tolist())
            self.fits = day, before


def _paired(hits: I64) -> Paired:
    """Popularity's hits, as `served`, and the model's, as `candidate`."""
    scored, paired = hits[hits != NOT_SCORED], Paired()
    paired.add(np.where(scored & POPULARITY, K, K + 1), np.where(scored & MODEL, K, K + 1))
    return paired
