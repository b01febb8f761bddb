"""The idle advances that a re-read must repeat: a short list (JOIN.md, Commit and re-read)."""

from collections.abc import Iterable

from contract.messages import Advance
from streams.metadata import fits


class AdvanceList:
    """Advances since the oldest needed offsets, in the order in which they were made."""

    def __init__(self, advances: Iterable[Advance] = ()) -> None:
        self.kept = list(advances)

    def replaces_last(self, new: Advance, *, lingering: bool) -> bool:
        """Whether `new` makes the last one needless: not lower, and nothing that matters was read between.

        `lingering`: some exposure was forgotten but is kept for an open one of its request. A click read between the
        two may then have gone to the open one, and would go to the forgotten one if the last advance were not repeated.
        """
        if not self.kept:
            return False
        last = self.kept[-1]
        if new.w_ms < last.w_ms:
            return False
        if new.clicks_position == last.clicks_position:
            return new.exposures_position == last.exposures_position or last.idle == "clicks"
        return new.exposures_position == last.exposures_position and not lingering

    def clears(self, new: Advance) -> bool:
        """Whether `new` would make all others needless, provided that it leaves nothing held and nothing open."""
        return all(new.w_ms >= old.w_ms for old in self.kept)

    def has_room(self, new: Advance) -> bool:
        """Whether the metadata can take one more."""
        return fits([*self.kept, new])

    def add(self, new: Advance, *, lingering: bool, leaves_nothing: bool) -> None:
        """Append an advance that was made; drop what it makes needless (`lingering`: before it was made)."""
        while self.replaces_last(new, lingering=lingering):
            self.kept.pop()
        if leaves_nothing and self.clears(new):
            self.kept.clear()
        self.kept.append(new)

    def prune(self, exposures_oldest: int, clicks_oldest: int, w_ms: int, window_ms: int) -> None:
        """Drop those that a re-read from these offsets, with W now `w_ms`, does not need."""
        self.kept = [
            a for a in self.kept if a.exposures_position > exposures_oldest or a.clicks_position > clicks_oldest
        ]
        if self.kept:
            last = self.kept[-1]
            cut = max(w_ms, last.w_ms) - window_ms
            self.kept = [a for a in self.kept if a is last or a.w_ms > cut]
