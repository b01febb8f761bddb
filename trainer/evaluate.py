"""Progressive recall_at_k: every sample is scored against the whole catalogue before it is learned.

Rules (one for the model and for popularity): a user's first click on an item counts; unseen users and items count; the
user's earlier positives (timestamp strictly less) are left out of the ranking; ties count against the positive; an item
that is not yet in the catalogue is a miss. rank = number of items that score at least as high, the positive included.
"""

from array import array
from collections import deque
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from trainer.frequency import F64, I64

KS = (10, 50, 100)
RECENT = 20_000  # scored samples of the `recent_` figures
POSITIVES_MAX = 1_000  # remembered per user
POPULARITY_HALF_LIFE = 2_000.0  # clicks, of the baseline
MISS = np.iinfo(np.int64).max

F32 = npt.NDArray[np.float32]


NOTHING: dict[int, int] = {}
NO_ITEMS: I64 = np.zeros(0, np.int64)


class _Flat(NamedTuple):
    """A user's positives as arrays; `liked` is the dictionary that they repeat."""

    liked: dict[int, int]
    items: "array[int]"
    ts_ms: "array[int]"


class Positives:
    """What each user row has clicked first, and when: the newest POSITIVES_MAX of a user, the oldest go first.

    A click on an item that was forgotten counts as a first one again, and the item is ranked for that user again.
    """

    def __init__(self) -> None:
        self.by_user: dict[int, dict[int, int]] = {}
        self._flat: dict[int, _Flat] = {}  # the same as arrays, as far as they were asked for

    def __deepcopy__(self, _: Any) -> "Positives":
        copied = Positives()
        copied.by_user = {user: dict(liked) for user, liked in self.by_user.items()}
        return copied

    def add(self, users: I64, items: I64, ts_ms: I64) -> npt.NDArray[np.bool_]:
        """Remember clicks [B]; give which ones are the user's first on the item."""
        first = np.zeros(len(users), bool)
        for place, (user, item, ts) in enumerate(zip(users.tolist(), items.tolist(), ts_ms.tolist(), strict=True)):
            liked = self.by_user.setdefault(user, {})
            if item not in liked:
                liked[item] = ts
                first[place] = True
                while len(liked) > POSITIVES_MAX:
                    del liked[next(iter(liked))]
                    self._flat.pop(user, None)
        return first

    def pairs(self, users: I64) -> tuple[I64, I64, I64]:
        """All (place in users, item, ts) of users [B], flat: three arrays [P]."""
        known, place = np.unique(users, return_inverse=True)  # who clicks much comes more than once
        flat = [self._arrays(user) for user in known.tolist()]
        lengths = np.array([len(one.items) for one in flat], np.int64)
        items = np.concatenate([NO_ITEMS, *(np.frombuffer(one.items, np.int64) for one in flat if one.items)])
        ts_ms = np.concatenate([NO_ITEMS, *(np.frombuffer(one.ts_ms, np.int64) for one in flat if one.items)])
        own = lengths[place]  # [B]
        owner = np.repeat(np.arange(len(users)), own)
        starts = np.cumsum(lengths) - lengths
        at = np.arange(len(owner)) - np.repeat(np.cumsum(own) - own - starts[place], own)
        return owner, items[at], ts_ms[at]

    def _arrays(self, user: int) -> "_Flat":
        """A user's items and times in their order: what came since they were last asked for is put behind."""
        liked = self.by_user.get(user, NOTHING)
        flat = self._flat.get(user)
        if flat is None or flat.liked is not liked:
            flat = self._flat[user] = _Flat(liked, array("q", liked), array("q", liked.values()))
        elif len(flat.items) < len(liked):
            new = list(islice(reversed(liked.items()), len(liked) - len(flat.items)))
            for item, ts in reversed(new):
                flat.items.append(item)
                flat.ts_ms.append(ts)
        return flat

    def forget_items(self, items: set[int]) -> None:
        """Drop freed item rows everywhere."""
        for user, liked in self.by_user.items():
            for item in items & liked.keys():
                del liked[item]
                self._flat.pop(user, None)

    def state(self) -> dict[str, I64]:
        """Flat arrays for a checkpoint."""
        users = np.array(list(self.by_user), np.int64)
        places, items, ts_ms = self.pairs(users)
        return {"users": users, "lengths": np.bincount(places, minlength=len(users)), "items": items, "ts_ms": ts_ms}

    def load(self, state: dict[str, I64]) -> None:
        """Take what `state` gave."""
        ends = np.cumsum(state["lengths"])
        pairs = list(zip(state["items"].tolist(), state["ts_ms"].tolist(), strict=True))
        starts = ends - state["lengths"]
        self.by_user = {
            user: dict(pairs[start:end])
            for user, start, end in zip(state["users"].tolist(), starts.tolist(), ends.tolist(), strict=True)
        }


def ranks(scores: F32, items: I64, left_out: tuple[I64, I64]) -> I64:
    """Rank [B] of each sample's item (MISS for -1) in scores [B, N], without the pairs (sample, item) left out."""
    seen = items >= 0
    own = scores[np.arange(len(items)), np.where(seen, items, 0)]  # [B]
    at_least = scores >= own[:, None]  # [B, N]
    better = np.array([np.count_nonzero(row) for row in at_least])  # row by row: many times faster than by axis
    places, excluded = left_out
    beaten = scores[places, excluded] >= own[places]
    better = better - np.bincount(places[beaten], minlength=len(items))
    return np.where(seen, better, MISS)


def popularity_ranks(counts: F64, alive: npt.NDArray[np.bool_], items: I64, left_out: tuple[I64, I64]) -> I64:
    """Ranks [B] when everybody is shown the same order by counts [N]."""
    seen = items >= 0
    own = counts[np.where(seen, items, 0)]  # [B]
    order = np.sort(counts[alive])
    better = len(order) - np.searchsorted(order, own, side="left")
    places, excluded = left_out
    beaten = (counts[excluded] >= own[places]) & alive[excluded]
    better = better - np.bincount(places[beaten], minlength=len(items))
    return np.where(seen, better, MISS)


class Recall:
    """Hits so far, and over the last RECENT scored samples, of the model and of popularity."""

    def __init__(self) -> None:
        self.scored = 0
        self.hits = np.zeros(2 * len(KS), np.int64)  # model's at each k, then popularity's
        self.recent: deque[tuple[int, I64]] = deque()  # per batch: scored, hits
        self.recent_scored = 0

    def add(self, model: I64, popularity: I64) -> None:
        """Take the ranks [n] of one batch."""
        hits = np.array([np.count_nonzero(ranked <= k) for ranked in (model, popularity) for k in KS], np.int64)
        self.scored += len(model)
        self.hits = self.hits + hits
        self.recent.append((len(model), hits))
        self.recent_scored += len(model)
        while self.recent_scored - self.recent[0][0] >= RECENT:
            self.recent_scored -= self.recent.popleft()[0]

    def metrics(self) -> dict[str, float]:
        """Shares by name; empty before the first scored sample."""
        if not self.scored:
            return {}
        names = [f"{who}recall_at_{k}" for who in ("", "popularity_") for k in KS]
        recent = np.sum([hits for _, hits in self.recent], axis=0)
        found = {name: float(hits / self.scored) for name, hits in zip(names, self.hits, strict=True)}
        found |= {f"recent_{n}": float(h / self.recent_scored) for n, h in zip(names, recent, strict=True)}
        return found | {"scored": float(self.scored)}

    def state(self) -> dict[str, Any]:
        """Give plain values for a checkpoint."""
        return {
            "scored": self.scored,
            "hits": self.hits.tolist(),
            "recent": [[n, *hits.tolist()] for n, hits in self.recent],
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take what `state` gave."""
        self.scored = state["scored"]
        self.hits = np.array(state["hits"], np.int64)
        self.recent = deque((row[0], np.array(row[1:], np.int64)) for row in state["recent"])
        self.recent_scored = sum(n for n, _ in self.recent)
