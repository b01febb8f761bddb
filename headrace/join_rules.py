"""The settings that decide verdicts, as plain numbers: for the streaming core's join and for the offline one."""

from typing import TypeVar

from contract.settings import Settings
from headrace import offline_times
from streams import verdicts

R = TypeVar("R", offline_times.Rules, verdicts.Rules)


def rules_of(kind: type[R], settings: Settings, *, clicks_only: bool | None = None) -> R:
    """Rules of a join under these settings; `clicks_only` overrules join.mode."""
    join, history = settings.join, settings.history
    return kind(
        window_ms=join.window_ms,
        lateness_ms=join.lateness_ms,
        max_skew_ms=join.max_skew_ms,
        history_length=history.length,
        shown_exposures=history.shown_exposures,
        half_life_ms=settings.popularity.half_life_ms,
        clicks_only=join.mode == "clicks-only" if clicks_only is None else clicks_only,
    )
