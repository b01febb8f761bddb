"""Exposures that the join still knows: open until their window has closed, kept a while longer (JOIN.md, Exposures).

    read ──> open ──(stream time > ts + window)──> closed ──(> ts + window + lateness, W_exposures > ts)──> forgotten
                                                   still known: a click that comes now is `closed_while_idle`

A forgotten exposure matches nothing; its record stays needed by a re-read while an open one of the same request, at a
higher offset and near in time, could take over its clicks.
"""

from bisect import bisect_left, bisect_right, insort
from heapq import heappop, heappush
from operator import attrgetter
from typing import Any

from msgspec import Struct

from contract.messages import Click, Exposure


class KeptExposure(Struct, gc=False, eq=False):
    """One accepted exposure. `gc=False`: nothing that it refers to refers back."""

    offset: int
    user: str
    request: str
    ts_ms: int
    items: list[str]
    context: dict[str, Any]
    before_ms: int  # M_exposures before this record
    open: bool = True
    known: bool = True
    masks: dict[str, int] | None = None  # item -> actions on it (label.BITS)
    low: int = -1  # lowest offset of a click matched to it; -1: none
    low_before_ms: int = 0  # M_clicks before that click


_ts_ms = attrgetter("ts_ms")
_when = attrgetter("ts_ms", "offset")


class Exposures:
    """The kept exposures of one partition, found by request, by user and by the time at which they are due."""

    def __init__(self, window_ms: int, lateness_ms: int) -> None:
        self._window_ms = window_ms
        self._lateness_ms = lateness_ms
        self._kept: dict[int, KeptExposure] = {}  # by offset, which is the order of insertion
        self._requests: dict[tuple[str, str], list[KeptExposure]] = {}  # by offset
        self._users: dict[str, list[KeptExposure]] | None = None  # known ones by (ts, offset); made when first asked
        self.to_close: list[tuple[int, int, KeptExposure]] = []  # heap
        self.to_forget: list[tuple[int, int, KeptExposure]] = []  # heap
        self._lows: list[tuple[int, int, KeptExposure]] = []  # heap of (low, ..), stale where .low differs
        self._open = 0
        self.lingering = 0  # forgotten, but kept for an open one of the same request

    @property
    def nothing_open(self) -> bool:
        """Whether no exposure is open."""
        return not self._open

    def add(self, offset: int, event: Exposure, before_ms: int) -> KeptExposure | None:
        """Take an exposure in; None if it repeats a kept one."""
        user, ts = event.user_id, event.ts_ms
        key = (user, event.request_id)
        group = self._requests.get(key)
        if group is None:
            group = self._requests[key] = []
        for other in group:
            if other.ts_ms == ts:
                return None
        exposure = KeptExposure(offset, user, event.request_id, ts, event.items, event.context, before_ms)
        group.append(exposure)
        self._kept[offset] = exposure
        heappush(self.to_close, (ts, offset, exposure))
        self._open += 1
        if self._users is not None:
            insort(self._users.setdefault(user, []), exposure, key=_when)
        return exposure

    def of_request(self, click: Click) -> KeptExposure | None:
        """Return the exposure that a click with a request_id answers: of several the lowest offset."""
        group = self._requests.get((click.user_id, click.request_id))  # type: ignore[arg-type]  # None finds nothing
        if group is not None:
            for exposure in group:
                if exposure.known and self.fits(click, exposure):
                    return exposure
        return None

    def fits(self, click: Click, exposure: KeptExposure) -> bool:
        """Whether time and item of a click of the same user and request go with the exposure."""
        return -self._lateness_ms <= click.ts_ms - exposure.ts_ms <= self._window_ms and (
            click.item_id in exposure.items
        )

    def newest_showing(self, click: Click) -> KeptExposure | None:
        """Return the exposure that a click without request_id answers: of several the largest (ts, offset)."""
        if self._users is None:
            self._users = self._by_user()
        shown = self._users.get(click.user_id)
        if shown is None:
            return None
        ts, item = click.ts_ms, click.item_id
        for at in range(bisect_right(shown, ts, key=_ts_ms) - 1, -1, -1):
            exposure = shown[at]
            if ts - exposure.ts_ms > self._window_ms:
                return None
            if item in exposure.items:
                return exposure
        return None

    def match(self, exposure: KeptExposure, click_offset: int, before_ms: int) -> None:
        """Note that a click belongs to an open exposure: a re-read needs it until that closes."""
        if exposure.low < 0 or click_offset < exposure.low:
            exposure.low, exposure.low_before_ms = click_offset, before_ms
            heappush(self._lows, (click_offset, exposure.offset, exposure))

    def close(self, time_ms: int) -> list[KeptExposure]:
        """Close what is due at stream time; give back those that did, for their outcomes."""
        closed = []
        due, limit = self.to_close, time_ms - self._window_ms
        while due and due[0][0] < limit:
            entry = heappop(due)
            exposure = entry[2]
            exposure.open = False
            closed.append(exposure)
            heappush(self.to_forget, entry)
        self._open -= len(closed)
        for exposure in closed:
            group = self._requests[exposure.user, exposure.request]
            if len(group) > 1:
                for other in [o for o in group if not o.known]:
                    self.lingering -= 1
                    self._drop(other, group)
        return closed

    def forget(self, time_ms: int, exposures_w_ms: int) -> None:
        """Forget what is due at stream time, given W of the exposures themselves."""
        due = self.to_forget
        limit = min(time_ms - self._window_ms - self._lateness_ms, exposures_w_ms)
        while due and due[0][0] < limit:
            exposure = heappop(due)[2]
            exposure.known = False
            if self._users is not None:
                shown = self._users[exposure.user]
                del shown[bisect_left(shown, _when(exposure), key=_when)]
                if not shown:
                    del self._users[exposure.user]
            self._drop(exposure, self._requests[exposure.user, exposure.request])

    def oldest(self) -> KeptExposure | None:
        """Return the kept exposure of the lowest offset."""
        return next(iter(self._kept.values()), None)

    def lowest_click(self) -> tuple[int, int] | None:
        """Lowest offset of a click matched to an open exposure, and M_clicks before it."""
        lows = self._lows
        while lows and not (lows[0][2].open and lows[0][2].low == lows[0][0]):
            heappop(lows)
        return (lows[0][0], lows[0][2].low_before_ms) if lows else None

    def all_due(self, time_ms: int) -> bool:
        """Whether this stream time would close every open exposure."""
        limit = time_ms - self._window_ms
        return all(entry[0] < limit for entry in self.to_close)

    def _drop(self, exposure: KeptExposure, group: list[KeptExposure]) -> None:
        """Let go of a forgotten exposure unless a younger, open one of its request needs it re-read."""
        reach = self._window_ms + self._lateness_ms
        for other in group:
            if other.open and other.offset > exposure.offset and abs(other.ts_ms - exposure.ts_ms) <= reach:
                self.lingering += 1
                return
        del self._kept[exposure.offset]
        group.remove(exposure)
        if not group:
            del self._requests[exposure.user, exposure.request]

    def _by_user(self) -> dict[str, list[KeptExposure]]:
        users: dict[str, list[KeptExposure]] = {}
        for exposure in sorted((e for e in self._kept.values() if e.known), key=_when):
            users.setdefault(exposure.user, []).append(exposure)
        return users
