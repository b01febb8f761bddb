"""Which inputs are silent: at their end for long enough, nothing in the way (JOIN.md, Idle). Pure: now is given."""

Lane = tuple[str, int]  # source or topic, partition number


class Idleness:
    """Since when each input has been at its end.

    records ... end ─────────── timeout ──> silent
                     │  trouble, or the other input wakes: the clock starts anew
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._end_s: dict[Lane, float] = {}
        self._clear_s = 0.0

    def ended(self, lane: Lane, now_s: float) -> None:
        """All of an input's records are read."""
        self._end_s.setdefault(lane, now_s)

    def moved(self, lane: Lane, now_s: float) -> None:
        """An input has unread records, or it is not known.

        One that was silent wakes the others of its partition, too: their clocks start anew. After a quiet time two
        inputs seldom come back in the same instant, and whatever the second one brings must not find windows closed.
        """
        since = self._end_s.pop(lane, None)
        if since is not None and since <= now_s - self._timeout_s:
            for other in self._end_s:
                if other[1] == lane[1]:
                    self._end_s[other] = now_s

    def trouble(self, now_s: float) -> None:
        """Something may have kept records away: cut off, rebalancing, this process was stopped."""
        self._clear_s = now_s

    def forget(self) -> None:
        """No input is ours any more."""
        self._end_s.clear()

    def at_end(self, lane: Lane) -> bool:
        """Whether nothing is known to be unread."""
        return lane in self._end_s

    def silent(self, now_s: float) -> list[Lane]:
        """Inputs at their end for the whole time-out without trouble."""
        latest = now_s - self._timeout_s
        if self._clear_s > latest:
            return []
        return [lane for lane, since in self._end_s.items() if since <= latest]
