"""Clicks that are not decided yet (JOIN.md, Clicks): early ones, ones without request_id, ones that wait behind those.

early        has a request_id; no exposure fits yet                until one comes, or stream time > ts + lateness
undecided    has none                                              until W_exposures > ts (or an idle advance)
waiting      matched; a lower-offset undecided click of the same (user, item) may still match the same exposure
"""

from heapq import heappop, heappush
from typing import Any

from contract.messages import Click
from streams.exposures import KeptExposure
from streams.history import Holdable


class HeldClick(Holdable, gc=False, eq=False, kw_only=True):
    """A click on its way to a verdict."""

    event: Click
    arrival_ms: int
    before_ms: int  # M_clicks before this record
    raw: Any
    exposure: KeptExposure | None = None  # once matched
    waiters: "list[HeldClick] | None" = None  # those that wait behind this undecided one


class HeldClicks:
    """The held clicks of one partition, found by request, by (user, item) and by the time at which they are due."""

    def __init__(self, window_ms: int, lateness_ms: int) -> None:
        self._window_ms = window_ms
        self._lateness_ms = lateness_ms
        self._held: dict[int, HeldClick] = {}  # by offset, which is the order of insertion
        self.early: dict[tuple[str, str | None], list[HeldClick]] = {}  # by offset
        self._undecided: dict[tuple[str, str], list[HeldClick]] = {}  # by offset
        self.early_due: list[tuple[int, int, HeldClick]] = []  # heap
        self.undecided_due: list[tuple[int, int, HeldClick]] = []  # heap

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, click: HeldClick) -> None:
        """Hold a click that was just read."""
        self._held[click.offset] = click

    def release(self, click: HeldClick) -> None:
        """Let a click go: it has its verdict."""
        click.held = False
        del self._held[click.offset]

    def oldest(self) -> HeldClick | None:
        """Return the held click of the lowest offset."""
        return next(iter(self._held.values()), None)

    def offsets(self) -> set[int]:
        """Offsets of all held clicks."""
        return set(self._held)

    def await_exposure(self, click: HeldClick) -> None:
        """Put an early click where its exposure will find it."""
        event = click.event
        self.early.setdefault((event.user_id, event.request_id), []).append(click)
        heappush(self.early_due, (event.ts_ms, click.offset, click))

    def await_time(self, click: HeldClick) -> None:
        """Put a click without request_id where W_exposures will find it."""
        event = click.event
        self._undecided.setdefault((event.user_id, event.item_id), []).append(click)
        heappush(self.undecided_due, (event.ts_ms, click.offset, click))

    def early_of(self, exposure: KeptExposure) -> list[HeldClick]:
        """Early clicks of the exposure's user and request, by offset; whichever fit must be `met`."""
        return self.early.get((exposure.user, exposure.request), [])

    def met(self, clicks: list[HeldClick], exposure: KeptExposure) -> None:
        """Take early clicks out that found their exposure."""
        key = (exposure.user, exposure.request)
        left = [click for click in self.early[key] if click not in clicks]
        if left:
            self.early[key] = left
        else:
            del self.early[key]

    def orphans(self, time_ms: int) -> list[HeldClick]:
        """Take out the early clicks whose exposure can no longer come at this stream time."""
        due, limit, found = self.early_due, time_ms - self._lateness_ms, []
        while due and due[0][0] < limit:
            click = heappop(due)[2]
            if click.held and click.exposure is None:
                found.append(click)
                key = (click.event.user_id, click.event.request_id)
                group = self.early[key]
                group.remove(click)
                if not group:
                    del self.early[key]
        return found

    def decidable(self, exposures_w_ms: int) -> list[HeldClick]:
        """Undecided clicks that are due, by offset; each is to be passed to `decided` in turn."""
        due, found = self.undecided_due, []
        while due and due[0][0] < exposures_w_ms:
            found.append(heappop(due)[2])
        found.sort(key=lambda click: click.offset)
        return found

    def decided(self, click: HeldClick) -> list[HeldClick]:
        """Take an undecided click out; give back those that waited behind it, by offset."""
        key = (click.event.user_id, click.event.item_id)
        group = self._undecided[key]
        group.remove(click)
        if not group:
            del self._undecided[key]
        waiters = click.waiters or []
        click.waiters = None
        waiters.sort(key=lambda waiter: waiter.offset)
        return waiters

    def blocker(self, offset: int, event: Click, exposure: KeptExposure) -> HeldClick | None:
        """Return a lower-offset undecided click that a click matched to `exposure` has to wait for."""
        for other in self._undecided.get((event.user_id, event.item_id), ()):
            if other.offset > offset:
                return None
            if 0 <= other.event.ts_ms - exposure.ts_ms <= self._window_ms:
                return other
        return None

    def all_due(self, time_ms: int, exposures_w_ms: int) -> bool:
        """Whether this stream time and this W_exposures would decide every held click."""
        limit = time_ms - self._lateness_ms
        early = all(e[0] < limit for e in self.early_due if e[2].held and e[2].exposure is None)
        return early and all(e[0] < exposures_w_ms for e in self.undecided_due)
