"""The settings that decide verdicts, for the offline join; read apart from the streaming core, whose oracle that is."""

from contract.settings import Settings
from headrace.offline_times import Rules


def rules_of(settings: Settings) -> Rules:
    """Rules of a join under these settings."""
    join, history = settings.join, settings.history
    return Rules(
        window_ms=join.window_ms,
        lateness_ms=join.lateness_ms,
        max_skew_ms=join.max_skew_ms,
        history_length=history.length,
        shown_exposures=history.shown_exposures,
        half_life_ms=settings.popularity.half_life_ms,
        clicks_only=join.mode == "clicks-only",
    )
