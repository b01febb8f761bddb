"""What the join has decided since the last take; silent during a re-read, when all of it was produced before."""

from typing import Any

from contract.messages import Advance, Marker, Outcome, Sample
from streams.history import Histories
from streams.metadata import TOTALS
from streams.popularity import PopularityCounts
from streams.verdicts import NEVER, Batch, DeadLetter, Rules, Source


class Output:
    """Samples, outcomes, dead letters, histories, popularity, marker and totals of one partition."""

    def __init__(self, rules: Rules) -> None:
        self.totals = dict.fromkeys(TOTALS, 0)
        self.histories = Histories(rules.history_length, rules.shown_exposures)
        self.popularity = PopularityCounts(rules.half_life_ms)
        self.silent = False
        self.samples: list[Sample] = []
        self.outcomes: list[Outcome] = []
        self.dead_letters: list[DeadLetter] = []
        self.advances: list[Advance] = []
        self.arrival_ms = 0  # newest of this batch
        self.is_idle = False
        self._marked: tuple[int, bool] | None = (NEVER, False)  # progress and idle flag of the last marker

    def dead_letter(self, source: Source, offset: int, reason: str, text: str, raw: Any) -> None:
        """Give a record up."""
        if not self.silent:
            self.dead_letters.append(DeadLetter(source, offset, reason, text, raw))
            self.totals["dead_letters"] += 1

    def begin_silence(self, totals: dict[str, int]) -> None:
        """Begin a re-read: nothing is produced or counted until `end_silence`."""
        self.totals.update(totals)
        self.silent = True

    def end_silence(self) -> None:
        """End a re-read. The next take holds a marker, as nobody knows here what the last one said."""
        self.silent = False
        self.arrival_ms = 0
        self._marked = None

    def take(self, progress_ms: int) -> Batch:
        """Everything since the last take, given M (the larger one) now."""
        now = (progress_ms, self.is_idle)
        marker = None
        if self.advances or self._marked != now:
            known = None if progress_ms == NEVER else progress_ms
            marker = Marker(known, self.is_idle, self.advances, self.arrival_ms)
        batch = Batch(
            self.samples,
            self.outcomes,
            self.dead_letters,
            self.histories.take(),
            self.popularity.take(),
            marker,
        )
        self.samples, self.outcomes, self.dead_letters, self.advances = [], [], [], []
        self._marked, self.arrival_ms = now, 0
        return batch
