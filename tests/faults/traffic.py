"""A known stream of raw events, drawn from a seed: what a live site sends, and all that a live site gets wrong.

Event time is `now_ms` less a constant, so that a day border may fall into a run of half a minute. A *mode* is a way in
which the stream misbehaves for a while; the plain stream has a little of everything.
"""

import random
from collections import deque
from collections.abc import Collection, Iterator
from typing import NamedTuple

from contract.kafka import partition_of
from contract.messages import ACTIONS, Click, Exposure, Item, RankingDrop, Scalar, User, encode_json

USERS, ITEMS = 400, 300
GROWTH = 10
HOUR_MS = 3_600_000
RECENT = 2_000
POISON = (
    b"",
    b"{",
    b"\xff\xfe",
    b'{"user_id":"u1"}',
    b'{"request_id":"r","user_id":"u1","ts_ms":1e300,"items":["i1"]}',
    b'{"request_id":"r","user_id":"u1","ts_ms":1650812741436,"items":[]}',
    b'{"request_id":"r","user_id":"u1","ts_ms":1650812741436,"items":["i1"],"context":{"n":18446744073709551616}}',
    b'{"user_id":"u1","item_id":"i1","ts_ms":1650812741436,"action":"gaze"}',
)
PLAIN = {
    "exposure": 550,
    "click": 300,
    "id_less": 40,
    "early": 20,
    "orphan": 10,
    "repeat": 30,
    "late": 3,
    "ahead": 3,
    "slow": 0,
    "poison": 4,
    "misplaced": 3,
    "drop": 10,
    "item": 4,
    "user": 4,
    "forget": 1,
}
BOOSTED = {
    "late": {"late": 300},
    "early": {"early": 400},
    "orphan": {"orphan": 400},
    "poison": {"poison": 300},
    "fast_clock": {"ahead": 300},
    "slow_clock": {"slow": 300},
}
COPIES = {"twice": 2, "ten_times": 10}
MODES = (*BOOSTED, *COPIES, "reorder", "beyond_lateness", "hot_key", "growth")


class Sent(NamedTuple):
    """One raw record; partition -1: where its key belongs."""

    topic: str
    key: bytes
    value: bytes | None
    partition: int = -1


class Traffic:
    """Draws records; `draw` gives those of one event at a wall-clock instant."""

    def __init__(self, seed: int, partitions: int, lateness_ms: int, behind_ms: int = 0) -> None:
        self._draw = random.Random(seed)
        self._partitions, self._lateness_ms, self._behind_ms = partitions, lateness_ms, behind_ms
        self._recent: deque[Exposure] = deque(maxlen=RECENT)
        self._sent: deque[Sent] = deque(maxlen=RECENT)
        self._delayed: deque[tuple[int, Sent]] = deque()  # (due, record)
        self._requests = 0

    def catalogue(self, now_ms: int) -> Iterator[Sent]:
        """Features of all items and of half of the users."""
        for n in range(ITEMS):
            yield self._item(n, now_ms)
        for n in range(0, USERS, 2):
            yield self._user(n, now_ms)

    def draw(self, now_ms: int, modes: Collection[str] = ()) -> list[Sent]:
        """Records of the next event, and delayed ones that are due."""
        weights = dict(PLAIN)
        for mode in modes:
            weights |= BOOSTED.get(mode, {})
        kind = self._draw.choices(list(weights), list(weights.values()))[0]
        records = [record for record in self._event(kind, now_ms, modes) for _ in range(_copies(modes))]
        self._sent.extend(r for r in records if r.value is not None)
        while self._delayed and self._delayed[0][0] <= now_ms:
            records.append(self._delayed.popleft()[1])
        return records

    def delayed(self) -> list[Sent]:
        """What still waits, for the end."""
        left = [record for _, record in self._delayed]
        self._delayed.clear()
        return left

    def _event(  # noqa: C901, PLR0911  (one case a kind)
        self, kind: str, now_ms: int, modes: Collection[str]
    ) -> list[Sent]:
        draw, ts_ms = self._draw, now_ms - self._behind_ms - self._disorder_ms(modes)
        match kind:
            case "poison":
                return [Sent(draw.choice(("exposures", "clicks", "ranking-drops")), b"u1", draw.choice(POISON))]
            case "repeat" if self._sent:
                return [draw.choice(self._sent)]
            case "item":
                return [self._item(draw.randrange(ITEMS), ts_ms)]
            case "user":
                return [self._user(draw.randrange(USERS), ts_ms)]
            case "forget":
                return [Sent("users", self._user_id(()).encode(), None)]
            case "drop":
                items = [self._item_id(modes) for _ in range(3)]
                return [_keyed("ranking-drops", RankingDrop(self._user_id(modes), ts_ms, items))]
            case "misplaced":
                record = _keyed("exposures", self._exposure(ts_ms, modes))
                home = partition_of(record.key, self._partitions)
                return [record._replace(partition=(home + 1) % self._partitions)]
            case "late":
                return [_keyed("exposures", self._exposure(ts_ms - 3 * self._lateness_ms, modes))]
            case "ahead":  # by an hour of its arrival, not of the stream's own time
                return [self._of_clock(now_ms + HOUR_MS, modes)]
            case "slow":
                return [self._of_clock(ts_ms - HOUR_MS, modes)]
            case "early":
                return self._early(ts_ms, now_ms, modes)
            case "click" | "id_less" | "orphan" if self._recent:
                return [_keyed("clicks", self._click(kind, ts_ms))]
        exposure = self._exposure(ts_ms, modes)
        self._recent.append(exposure)
        return [_keyed("exposures", exposure)]

    def _disorder_ms(self, modes: Collection[str]) -> int:
        if "beyond_lateness" in modes:
            return self._draw.randrange(3 * self._lateness_ms)
        if "reorder" in modes:
            return self._draw.randrange(self._lateness_ms * 9 // 10)
        return self._draw.choice((0, 0, 0, 20, 200))

    def _early(self, ts_ms: int, now_ms: int, modes: Collection[str]) -> list[Sent]:
        """Clicks that arrive before their exposure."""
        exposure = self._exposure(ts_ms, modes)
        due_ms = now_ms + self._draw.randrange(self._lateness_ms // 2)
        self._delayed.append((due_ms, _keyed("exposures", exposure)))
        item, later_ms = self._draw.choice(exposure.items), self._draw.randrange(-100, 100)
        return [_keyed("clicks", Click(exposure.user_id, item, ts_ms + later_ms, "click", exposure.request_id))]

    def _of_clock(self, ts_ms: int, modes: Collection[str]) -> Sent:
        if self._recent and self._draw.random() < 0.5:
            return _keyed("clicks", self._click("click", ts_ms))
        return _keyed("exposures", self._exposure(ts_ms, modes))

    def _exposure(self, ts_ms: int, modes: Collection[str]) -> Exposure:
        self._requests += 1
        items = [self._item_id(modes) for _ in range(self._draw.randrange(1, 8))]
        return Exposure(f"r{self._requests}", self._user_id(modes), ts_ms, items, {"tab": self._draw.choice("abc")})

    def _click(self, kind: str, ts_ms: int) -> Click:
        newest = len(self._recent) - 1
        shown = self._recent[newest - int(min(newest, self._draw.expovariate(1 / 150)))]
        request = {"id_less": None, "orphan": f"no{self._requests}"}.get(kind, shown.request_id)
        return Click(shown.user_id, self._draw.choice(shown.items), ts_ms, self._draw.choice(ACTIONS), request)

    def _user_id(self, modes: Collection[str]) -> str:
        if "hot_key" in modes and self._draw.random() < 0.5:
            return "hot"
        return f"u{self._draw.randrange(USERS * (GROWTH if 'growth' in modes else 1))}"

    def _item_id(self, modes: Collection[str]) -> str:
        space = ITEMS * (GROWTH if "growth" in modes else 1)
        return f"i{int(space * self._draw.random() ** 3)}"

    def _item(self, n: int, ts_ms: int) -> Sent:
        tags: list[Scalar] = [f"t{self._draw.randrange(40)}" for _ in range(3)]
        features: dict[str, Scalar | list[Scalar]] = {"category": f"c{n % 12}", "tags": tags}
        return _keyed("items", Item(f"i{n}", ts_ms, features))

    def _user(self, n: int, ts_ms: int) -> Sent:
        return _keyed("users", User(f"u{n}", ts_ms, {"country": f"c{n % 7}", "age": self._draw.randrange(18, 80)}))


def _copies(modes: Collection[str]) -> int:
    return max((COPIES[mode] for mode in modes if mode in COPIES), default=1)


def _keyed(topic: str, event: Exposure | Click | Item | User | RankingDrop) -> Sent:
    key = event.item_id if isinstance(event, Item) else event.user_id
    return Sent(topic, key.encode(), encode_json(event))
