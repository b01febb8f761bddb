"""What a person reads beside a dead letter: one clear line for each verdict of the core."""

from contract.messages import Click


def ahead_text(ts_ms: int, arrival_ms: int, max_skew_ms: int) -> str:
    """Event time is too far ahead of arrival."""
    by = ts_ms - arrival_ms
    return f"ts_ms {ts_ms} is {by} ms ahead of its arrival {arrival_ms}; join.max_skew_ms is {max_skew_ms}"


def late_text(ts_ms: int, m_ms: int, lateness_ms: int) -> str:
    """Event time is too far behind its partition."""
    return f"ts_ms {ts_ms} is {m_ms - ts_ms} ms behind its partition's {m_ms}; join.lateness_ms is {lateness_ms}"


def orphan_text(click: Click) -> str:
    """No exposure came that showed the item."""
    asked = "" if click.request_id is None else f" with request_id {click.request_id!r}"
    return f"no exposure of user {click.user_id!r}{asked} showed item {click.item_id!r} near ts_ms {click.ts_ms}"


def closed_text(exposure_offset: int) -> str:
    """An idle input let time pass without the click."""
    return f"its exposure (offset {exposure_offset}) was closed by an idle advance before this click was read"
