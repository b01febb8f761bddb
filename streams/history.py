"""Users' histories: the ring of the last 4 L clicks as taken, and what was shown last (JOIN.md, History).

A held click needs the ring as it stood before its own offset. It is not copied: entries carry their offsets, and while
a click is held its user's ring keeps the 4 L entries before it and all that came after. So live and re-read clicks read
the same ring in the same way.

How a bot is kept from outgrowing a message (1 MB): a ring never holds more than `MAX_RING_BYTES`, counted as its
entries times the user's largest one; beyond that the oldest go, and a click that is still held then sees a shorter
history. That is the one way in which a history may differ from the offline join: a user with thousands of clicks (with
ids of ten characters 8,000, with ids of 256 bytes 900) while one of them is held. Shown exposures beyond
`MAX_SHOWN_BYTES` of item ids are dropped, oldest first; that is a function of the log alone.
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable
from itertools import pairwise
from operator import attrgetter
from typing import Final

from msgspec import Struct

from contract.messages import MAX_ID_BYTES, Click, History, HistoryEntry, RingEntry, ShownEntry

MAX_RING_BYTES: Final = 500_000  # 4 L is at most 800 entries, with two ids of 256 bytes each some 440 kB
ENTRY_BYTES: Final = 40  # of an entry without its ids
MAX_SHOWN_BYTES: Final = 400_000  # one exposure holds at most 1,000 ids of 256 bytes
_offset = attrgetter("offset")
_ts_ms = attrgetter("ts_ms")


class Holdable(Struct, gc=False):
    """A click that may be held: what a ring must know of it."""

    offset: int
    held: bool


class UserHistory(Struct, gc=False):
    """One user's state."""

    clicks: list[RingEntry]
    shown: list[ShownEntry]
    newest_ms: int  # no entry of `clicks` has a larger ts
    disorder: int  # offset of the newest entry that is older than the one before it: from it on, ts never falls
    shown_items: int  # over all of `shown`
    largest: int  # bytes of the largest click seen


class Histories:
    """All users' histories of one partition."""

    def __init__(self, length: int, shown_exposures: int) -> None:
        self._length = length
        self._capacity = 4 * length
        self._roomy = 8 * length  # trimmed only beyond this, so that it costs O(1) per click
        self._shown_exposures = shown_exposures
        self._users: dict[str, UserHistory] = {}
        self._holding: dict[str, deque[Holdable]] = {}
        self._dirty: set[str] = set()

    def click(self, offset: int, event: Click) -> None:
        """Take a valid click, unless it exactly repeats one in the ring."""
        user, ts = event.user_id, event.ts_ms
        mine = self._users.get(user)
        if mine is None:
            mine = self._users[user] = UserHistory([], [], ts - 1, -1, 0, 0)
        ring = mine.clicks
        if ts > mine.newest_ms:
            mine.newest_ms = ts
        elif self._repeats(ring, event):
            return
        elif ring and ts < ring[-1].ts_ms:
            mine.disorder = offset
        if len(ring) >= self._roomy:  # before the new entry comes in: its own click may need all of the 4 L before it
            self._trim(user, mine)
        mine.largest = max(mine.largest, _bytes(event.item_id, event.request_id))
        ring.append(RingEntry(offset, event.item_id, ts, event.action, event.request_id))
        self._dirty.add(user)

    def exposure(self, user: str, offset: int, ts_ms: int, items: list[str]) -> None:
        """Remember what was shown."""
        if not self._shown_exposures:
            return
        mine = self._users.get(user)
        if mine is None:
            mine = self._users[user] = UserHistory([], [], ts_ms - 1, -1, 0, 0)
        shown = mine.shown
        shown.append(ShownEntry(offset, ts_ms, items))
        mine.shown_items += len(items)
        if len(shown) > self._shown_exposures:
            mine.shown_items -= len(shown.pop(0).items)
        if mine.shown_items * MAX_ID_BYTES > MAX_SHOWN_BYTES:
            _fit(mine)
        self._dirty.add(user)

    def before(self, user: str, offset: int, ts_ms: int) -> list[HistoryEntry]:
        """Of the ring as it stood before `offset`, the newest L by (ts, offset) with ts < `ts_ms`, oldest first."""
        mine = self._users.get(user)
        if mine is None or not mine.clicks:
            return []
        ring = mine.clicks
        end = len(ring)
        if ring[-1].offset >= offset:
            end = bisect_left(ring, offset, key=_offset)
        start = max(0, end - self._capacity)
        if start == end:
            return []
        if ring[start].offset >= mine.disorder:
            while end > start and ring[end - 1].ts_ms >= ts_ms:
                end -= 1
            chosen = ring[max(start, end - self._length) : end]
        else:
            earlier = [entry for entry in ring[start:end] if entry.ts_ms < ts_ms]
            earlier.sort(key=_ts_ms)  # stable, and the ring is in offset order
            chosen = earlier[-self._length :]
        return [HistoryEntry(entry.item_id, entry.ts_ms, entry.action) for entry in chosen]

    def hold(self, user: str, click: Holdable) -> None:
        """Keep what `click` needs until its `held` is unset and `release` is called; in offset order per user."""
        self._holding.setdefault(user, deque()).append(click)

    def release(self, user: str) -> None:
        """Some click of the user is no longer held."""
        holding = self._holding.get(user)
        if holding is None:
            return
        while holding and not holding[0].held:
            holding.popleft()
        if not holding:
            del self._holding[user]

    def forget(self, user: str) -> None:
        """Delete a user: the next take holds a tombstone, later clicks begin a new ring."""
        self._users.pop(user, None)
        self._dirty.add(user)

    def restore(self, histories: Iterable[tuple[str, History]]) -> None:
        """Take over what the `histories` topic holds; nothing becomes due for output."""
        for user, history in histories:
            clicks, shown = list(history.clicks), list(history.shown)
            disorder = -1
            for earlier, later in pairwise(clicks):
                if later.ts_ms < earlier.ts_ms:
                    disorder = later.offset
            newest = max((entry.ts_ms for entry in clicks), default=-1)
            shown_items = sum(len(s.items) for s in shown)
            largest = max((_bytes(entry.item_id, entry.request_id) for entry in clicks), default=0)
            self._users[user] = UserHistory(clicks, shown, newest, disorder, shown_items, largest)

    def take(self) -> dict[str, History | None]:
        """Histories that changed since the last take; None: deleted."""
        taken: dict[str, History | None] = {}
        for user in self._dirty:
            mine = self._users.get(user)
            if mine is None:
                taken[user] = None
                continue
            if len(mine.clicks) > self._capacity:
                self._trim(user, mine)
            taken[user] = History(mine.clicks[:], mine.shown[:])
        self._dirty = set()
        return taken

    def _repeats(self, ring: list[RingEntry], event: Click) -> bool:
        item, ts, action, request = event.item_id, event.ts_ms, event.action, event.request_id
        return any(
            entry.ts_ms == ts and entry.item_id == item and entry.action == action and entry.request_id == request
            for entry in ring[-self._capacity :]
        )

    def _trim(self, user: str, mine: UserHistory) -> None:
        ring, keep = mine.clicks, self._capacity
        holding = self._holding.get(user)
        if holding:
            keep += len(ring) - bisect_left(ring, holding[0].offset, key=_offset)
        del ring[: -min(keep, MAX_RING_BYTES // mine.largest)]


def _bytes(item_id: str, request_id: str | None) -> int:
    """Bytes of a click in the message, at most."""
    ids = item_id + (request_id or "")
    return ENTRY_BYTES + (len(ids) if ids.isascii() else len(ids.encode()))


def _fit(mine: UserHistory) -> None:
    """Drop the oldest shown exposures until the rest fits."""
    sizes = [sum(len(item.encode()) for item in entry.items) for entry in mine.shown]
    excess = sum(sizes) - MAX_SHOWN_BYTES
    while excess > 0:
        excess -= sizes.pop(0)
        mine.shown_items -= len(mine.shown.pop(0).items)
