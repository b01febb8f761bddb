"""What the join has decided since the last take; silent during a re-read, when all of it was produced before."""

from typing import Any

from contract.messages import Advance, Click, ItemScore, Marker, Outcome, Sample
from streams.exposures import KeptExposure
from streams.history import Histories
from streams.label import score
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
        self.deleted: list[str] = []  # users
        self.arrival_ms = 0  # newest of this batch
        self.is_idle = False
        self._marked: tuple[int, bool] | None = (NEVER, False)  # progress and idle flag of the last marker

    def sample(self, exposure: KeptExposure, click: Click, offset: int, arrival_ms: int) -> None:
        """Write the sample of an exposure's item whose first action is this click."""
        item = click.item_id
        self.samples.append(
            Sample(
                click.user_id,
                exposure.request,
                exposure.ts_ms,
                item,
                click.ts_ms,
                click.action,
                exposure.items.index(item),
                self.histories.before(click.user_id, offset, exposure.ts_ms),
                exposure.context,
                arrival_ms,
                exposure.offset,
                offset,
            )
        )
        self.totals["samples"] += 1
        self.popularity.click(item, click.ts_ms)

    def outcome(self, exposure: KeptExposure) -> None:
        """Write the outcome of an exposure: each shown item's score."""
        masks = exposure.masks
        if masks is None:
            scores = [ItemScore(item, 0) for item in exposure.items]
        else:
            scores = [ItemScore(i, score(masks[i]) if i in masks else 0) for i in exposure.items]
        self.outcomes.append(
            Outcome(exposure.user, exposure.request, exposure.ts_ms, scores, exposure.offset, exposure.context)
        )
        self.totals["outcomes"] += 1

    def forget_user(self, user_id: str) -> None:
        """Delete a user's history."""
        self.histories.forget(user_id)
        self.deleted.append(user_id)

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
        if self.advances or self.deleted or self._marked != now:
            known = None if progress_ms == NEVER else progress_ms
            marker = Marker(known, self.is_idle, self.advances, self.arrival_ms, self.deleted)
        batch = Batch(
            self.samples,
            self.outcomes,
            self.dead_letters,
            self.histories.take(),
            self.popularity.take(),
            marker,
        )
        self.samples, self.outcomes, self.dead_letters, self.advances, self.deleted = [], [], [], [], []
        self._marked, self.arrival_ms = now, 0
        return batch
