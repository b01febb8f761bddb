"""The join of one partition: exposures-p and clicks-p in event time, exactly as JOIN.md defines it.

Every record goes through the same order of verdicts: (broken, wrong partition: the edge, `refuse`) ahead, late, repeat,
match. After a record has moved time on, and at each idle advance, `_step` first decides held clicks in offset order,
then orphans, closes and forgets. Everything that waits stands in a heap by its due time, so a record costs O(log n).

    progress     M_x      largest ts of input x that passed the ahead check         W_x = M_x - lateness
    stream time  W        the smaller W_x; or an idle advance's w, for what was read below its two positions

Deleting a user (`forget_user`) empties the ring and what was shown. Open exposures and held clicks stay: they come from
the raw log, which is the user's to delete, and a re-read would bring them back; their samples then carry no history
from before the deletion.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Literal

from contract.errors import InternalError, RefusedError
from contract.messages import Advance, Click, Exposure, History, Popularity
from streams.advances import AdvanceList
from streams.clicks_only import ClicksOnly
from streams.exposures import Exposures, KeptExposure
from streams.held import HeldClick, HeldClicks
from streams.label import BITS
from streams.metadata import Start, decode_commit, encode, needed_from, totals_of
from streams.output import Output
from streams.reasons import ahead_text, closed_text, late_text, orphan_text
from streams.unread import Unread
from streams.verdicts import NEVER, Batch, Commit, DeadLetter, Record, Rules, Source

__all__ = ["Batch", "Commit", "DeadLetter", "Join", "Record", "Rules", "Source", "needed_from", "totals_of"]


class Join:
    """The state of one partition number. Feed records in offset order per input; take; commit; repeat."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._window_ms, self._lateness_ms, self._skew_ms = rules.window_ms, rules.lateness_ms, rules.max_skew_ms
        self._next_exposure = self._next_click = 0  # positions: the offset after the last one read
        self._m_exposures = self._m_clicks = NEVER
        self._output = Output(rules)
        self._exposures = Exposures(rules.window_ms, rules.lateness_ms)
        self._held = HeldClicks(rules.window_ms, rules.lateness_ms)
        self._advances = AdvanceList()
        self._last_advance: Advance | None = None  # also when no longer needed for a re-read
        self._clicks_only = ClicksOnly(rules, self._output) if rules.clicks_only else None
        self.totals = self._output.totals

    # ---- records

    def exposure(self, offset: int, arrival_ms: int, event: Exposure, raw: Any) -> None:
        """Judge one exposure: ahead, late, repeat or accepted."""
        self._next_exposure = offset + 1
        output, before, ts = self._output, self._m_exposures, event.ts_ms
        if not output.silent:
            self.totals["exposures"] += 1
            output.arrival_ms = max(output.arrival_ms, arrival_ms)
        if ts > arrival_ms + self._skew_ms or ts < before - self._lateness_ms:
            self._refuse_time("exposures", offset, arrival_ms, ts, before, raw)
            return
        if (exposure := self._exposures.add(offset, event, before)) is None:
            if not output.silent:
                self.totals["exposure_repeats"] += 1
            return
        if not output.silent:
            output.popularity.exposure(event.items, ts)
            output.histories.exposure(event.user_id, offset, ts, event.items)
        if ts > before:
            self._m_exposures = ts
        if self._held.early and (exposure.user, exposure.request) in self._held.early:
            self._meet_early(exposure)
        if ts > before:
            w_exposures = ts - self._lateness_ms
            self._step(w_exposures, min(w_exposures, self._m_clicks - self._lateness_ms))

    def click(self, offset: int, arrival_ms: int, event: Click, raw: Any) -> None:
        """Judge one click: ahead, late, matched (a sample or a repeat), closed_while_idle or held."""
        self._next_click = offset + 1
        output, before, ts = self._output, self._m_clicks, event.ts_ms
        if not output.silent:
            self.totals["clicks"] += 1
            output.arrival_ms = max(output.arrival_ms, arrival_ms)
        if ts > arrival_ms + self._skew_ms or ts < before - self._lateness_ms:
            self._refuse_time("clicks", offset, arrival_ms, ts, before, raw)
            return
        if not output.silent:
            output.histories.click(offset, event)
        if ts > before:
            self._m_clicks = ts
        if self._clicks_only:
            self._clicks_only.click(offset, arrival_ms, event, before, self._m_clicks)
            return
        self._seek(offset, arrival_ms, event, before, raw)
        if ts > before:
            w_exposures = self._m_exposures - self._lateness_ms
            self._step(w_exposures, min(w_exposures, ts - self._lateness_ms))

    def refuse(self, source: Source, offset: int, reason: str, text: str, raw: Any) -> None:
        """Take the edge's verdict on a record: broken, wrong_partition or poison."""
        self._move(source, offset + 1)
        if not self._output.silent:
            self.totals[source] += 1
        self._output.dead_letter(source, offset, reason, text, raw)

    def end_of_partition(self, source: Source, offset: int) -> None:
        """Move the position over gaps and transaction markers: nothing is unread below `offset`."""
        self._move(source, offset)

    # ---- idle inputs

    def idle(self, *, exposures: bool, clicks: bool) -> bool:
        """Make the idle advance that is due, if one is; True if made. Notes the idle flag for the marker."""
        self._output.is_idle = clicks and (exposures or self._clicks_only is not None)
        if self._clicks_only or not (exposures or clicks):
            return False
        who: Literal["exposures", "clicks", "both"]
        if exposures and clicks:
            who = "both"
            w = max(self._m_exposures, self._m_clicks) + 1
        else:
            who = "exposures" if exposures else "clicks"
            w = (self._m_clicks if exposures else self._m_exposures) - self._lateness_ms
        if w <= NEVER + 1:
            return False
        advance = Advance(self._next_exposure, self._next_click, w, who)
        last = self._last_advance
        if (
            last is not None
            and w <= last.w_ms
            and last.exposures_position == advance.exposures_position
            and (last.clicks_position == advance.clicks_position)
        ):
            return False
        if not self._may_add(advance):
            return False
        self._apply(advance)
        self._output.advances.append(advance)
        return True

    def repeat(self, advance: Advance) -> None:
        """Make an advance that another namespace recorded; both inputs are read up to its positions, no further."""
        self._apply(advance)
        self._output.advances.append(advance)

    def _may_add(self, advance: Advance) -> bool:
        kept = self._advances
        if kept.has_room(advance) or kept.replaces_last(advance, lingering=self._exposures.lingering > 0):
            return True
        self._prune()
        return kept.has_room(advance) or (kept.clears(advance) and self._would_leave_nothing(advance.w_ms))

    def _would_leave_nothing(self, w_ms: int) -> bool:
        w_exposures = max(w_ms, self._m_exposures - self._lateness_ms)
        return self._held.all_due(w_ms, w_exposures) and self._exposures.all_due(w_ms)

    def _apply(self, advance: Advance) -> None:
        lingering = self._exposures.lingering > 0  # before the step
        self._step(max(advance.w_ms, self._m_exposures - self._lateness_ms), advance.w_ms)
        leaves_nothing = not self._held and self._exposures.nothing_open
        self._advances.add(advance, lingering=lingering, leaves_nothing=leaves_nothing)
        self._last_advance = advance

    # ---- users

    def forget_user(self, user_id: str) -> None:
        """Delete a user's history; the next batch tombstones it, and its marker says so."""
        self._output.forget_user(user_id)

    def restore(self, histories: Iterable[tuple[str, History]], popularity: Iterable[tuple[str, Popularity]]) -> None:
        """Take over what the compacted topics hold, before the first record."""
        self._output.histories.restore(histories)
        self._output.popularity.restore(popularity)

    # ---- transactions

    def take(self) -> Batch:
        """Everything decided since the last take."""
        return self._output.take(max(self._m_exposures, self._m_clicks))

    def commit(self) -> Commit:
        """Positions and metadata as of now; they belong into the transaction of the last take."""
        if self._clicks_only:
            start = self._clicks_only.start(self._next_click, self._m_clicks, self.totals)
            return Commit(0, "", self._next_click, encode(start))
        exposures, clicks = self._prune()
        return Commit(self._next_exposure, encode(exposures), self._next_click, encode(clicks))

    def position(self, source: Source) -> int:
        """Offset after the last one read of an input."""
        return self._next_exposure if source == "exposures" else self._next_click

    def undecided(self) -> set[int]:
        """Offsets of the clicks that have no verdict yet."""
        return self._held.offsets()

    def progress_ms(self, source: Source) -> int | None:
        """M of an input; None before its first valid event."""
        m = self._m_exposures if source == "exposures" else self._m_clicks
        return None if m == NEVER else m

    @classmethod
    def rebuild(
        cls,
        rules: Rules,
        commit: Commit | None,
        exposures: Iterator[Record],
        clicks: Iterator[Record],
        histories: Iterable[tuple[str, History]],
        popularity: Iterable[tuple[str, Popularity]],
    ) -> "Join":
        """Build the state as of a commit; None: a first start.

        The iterators give the records from `needed_from(commit)` up to the committed positions, each in offset order;
        they are read advance by advance, in silence. Raises RefusedError on metadata that is not ours or of the other
        join.mode.
        """
        join = cls(rules)
        join.restore(histories, popularity)
        if commit is None:
            return join
        at_exposures, at_clicks = decode_commit(commit)
        if rules.clicks_only != bool(at_clicks.totals):
            raise RefusedError(
                "this namespace was joined in the other join.mode; start another namespace (--namespace NAME)"
            )
        join._output.begin_silence(at_exposures.totals or at_clicks.totals)
        join._next_exposure, join._m_exposures = at_exposures.oldest, at_exposures.before_ms
        join._next_click, join._m_clicks = at_clicks.oldest, at_clicks.before_ms
        unread_exposures, unread_clicks = Unread(exposures), Unread(clicks)
        for advance in at_clicks.advances:
            join._reread(unread_exposures, advance.exposures_position, unread_clicks, advance.clicks_position)
            join._apply(advance)
        join._reread(unread_exposures, commit.exposures_position, unread_clicks, commit.clicks_position)
        join._output.end_silence()
        return join

    # ---- inside

    def _reread(self, exposures: "Unread", exposures_end: int, clicks: "Unread", clicks_end: int) -> None:
        for record in exposures.below(exposures_end):
            if isinstance(record.event, Exposure):
                self.exposure(record.offset, record.arrival_ms, record.event, record.raw)
        for record in clicks.below(clicks_end):
            if isinstance(record.event, Click):
                self.click(record.offset, record.arrival_ms, record.event, record.raw)
        self._move("exposures", exposures_end)
        self._move("clicks", clicks_end)

    def _move(self, source: Source, position: int) -> None:
        if source == "exposures":
            self._next_exposure = max(self._next_exposure, position)
        else:
            self._next_click = max(self._next_click, position)

    def _refuse_time(self, source: Source, offset: int, arrival_ms: int, ts_ms: int, m_ms: int, raw: Any) -> None:
        ahead = ts_ms > arrival_ms + self._skew_ms
        text = ahead_text(ts_ms, arrival_ms, self._skew_ms) if ahead else late_text(ts_ms, m_ms, self._lateness_ms)
        self._output.dead_letter(source, offset, "ahead" if ahead else "late", text, raw)

    def _seek(self, offset: int, arrival_ms: int, event: Click, before_ms: int, raw: Any) -> None:
        """Find the exposure of a click that was just read, or hold it."""
        if event.request_id is None:
            click = HeldClick(
                offset=offset, held=True, event=event, arrival_ms=arrival_ms, before_ms=before_ms, raw=raw
            )
            self._hold(click)
            self._held.await_time(click)
            if event.ts_ms < self._m_exposures - self._lateness_ms:
                self._decide_due(self._m_exposures - self._lateness_ms)
            return
        exposure = self._exposures.of_request(event)
        if exposure is not None and not exposure.open:
            self._closed_while_idle(offset, exposure, raw)
            return
        if exposure is not None:
            self._exposures.match(exposure, offset, before_ms)
            if self._held.blocker(offset, event, exposure) is None:
                self._engage(offset, arrival_ms, event, exposure)
                return
        click = HeldClick(offset=offset, held=True, event=event, arrival_ms=arrival_ms, before_ms=before_ms, raw=raw)
        self._hold(click)
        if exposure is None:
            self._held.await_exposure(click)
        else:
            click.exposure = exposure
            self._settle(click, exposure)

    def _meet_early(self, exposure: KeptExposure) -> None:
        """Match the early clicks that an exposure fits."""
        met = [click for click in self._held.early_of(exposure) if self._exposures.fits(click.event, exposure)]
        if not met:
            return
        self._held.met(met, exposure)
        for click in met:
            click.exposure = exposure
            self._exposures.match(exposure, click.offset, click.before_ms)
        for click in met:
            self._settle(click, exposure)

    def _step(self, exposures_w_ms: int, time_ms: int) -> None:
        """Stream time: decide held clicks, then orphan, then close, then forget."""
        held, exposures = self._held, self._exposures
        if held.undecided_due and held.undecided_due[0][0] < exposures_w_ms:
            self._decide_due(exposures_w_ms)
        if held.early_due and held.early_due[0][0] < time_ms - self._lateness_ms:
            for click in held.orphans(time_ms):
                self._orphan(click)
        close_ms = time_ms - self._window_ms
        if exposures.to_close and exposures.to_close[0][0] < close_ms:
            for exposure in exposures.close(time_ms):
                self._score(exposure)
        if exposures.to_forget and exposures.to_forget[0][0] < close_ms - self._lateness_ms:
            exposures.forget(time_ms, self._m_exposures - self._lateness_ms)

    def _decide_due(self, exposures_w_ms: int) -> None:
        """Decide clicks without request_id, in offset order, and wake those that waited behind them."""
        for click in self._held.decidable(exposures_w_ms):
            waiters = self._held.decided(click)
            exposure = self._exposures.newest_showing(click.event)
            if exposure is None:
                self._orphan(click)
            elif not exposure.open:
                self._release(click)
                self._closed_while_idle(click.offset, exposure, click.raw)
            else:
                click.exposure = exposure
                self._exposures.match(exposure, click.offset, click.before_ms)
                self._settle(click, exposure)
            for waiter in waiters:
                if waiter.exposure is None:
                    raise InternalError(f"click {waiter.offset} waits without an exposure")
                self._settle(waiter, waiter.exposure)

    def _settle(self, click: HeldClick, exposure: KeptExposure) -> None:
        """Decide a matched, held click, or let it wait behind an undecided one."""
        blocker = self._held.blocker(click.offset, click.event, exposure)
        if blocker is None:
            self._engage(click.offset, click.arrival_ms, click.event, exposure)
            self._release(click)
        elif blocker.waiters is None:
            blocker.waiters = [click]
        else:
            blocker.waiters.append(click)

    def _engage(self, offset: int, arrival_ms: int, event: Click, exposure: KeptExposure) -> None:
        """Count an action on a shown item; the first one is the sample."""
        if not exposure.open:
            raise InternalError(f"exposure {exposure.offset} closed before its click {offset} was decided")
        item, bit = event.item_id, BITS[event.action]
        if (masks := exposure.masks) is None:
            masks = exposure.masks = {}
        mask = masks.get(item, 0)
        masks[item] = mask | bit
        output = self._output
        if output.silent:
            return
        if mask & bit:
            self.totals["click_repeats"] += 1
        elif not mask:
            output.sample(exposure, event, offset, arrival_ms)

    def _score(self, exposure: KeptExposure) -> None:
        """Write the outcome of an exposure that has just closed; let go of what only an open one needs."""
        if not self._output.silent:
            self._output.outcome(exposure)
        exposure.masks, exposure.context = None, {}

    def _hold(self, click: HeldClick) -> None:
        self._held.hold(click)
        self._output.histories.hold(click.event.user_id, click)

    def _release(self, click: HeldClick) -> None:
        self._held.release(click)
        self._output.histories.release(click.event.user_id)

    def _orphan(self, click: HeldClick) -> None:
        self._release(click)
        self._output.dead_letter("clicks", click.offset, "orphan", orphan_text(click.event), click.raw)

    def _closed_while_idle(self, offset: int, exposure: KeptExposure, raw: Any) -> None:
        text = closed_text(exposure.offset)
        self._output.dead_letter("clicks", offset, "closed_while_idle", text, raw)

    def _prune(self) -> tuple[Start, Start]:
        """Drop advances that a re-read does not need; give back where one begins, for both inputs."""
        kept = self._exposures.oldest()
        start_x = (kept.offset, kept.before_ms) if kept else (self._next_exposure, self._m_exposures)
        held, low = self._held.oldest(), self._exposures.lowest_click()
        start_c = (held.offset, held.before_ms) if held else (self._next_click, self._m_clicks)
        start_c = min(start_c, low) if low else start_c
        w = min(self._m_exposures, self._m_clicks) - self._lateness_ms
        self._advances.prune(start_x[0], start_c[0], w, self._window_ms)
        return Start(*start_x, self.totals, []), Start(*start_c, {}, self._advances.kept)
