"""Waiting until everything that was produced is joined, learned and served."""

import time
from collections.abc import Callable, Sequence

from confluent_kafka import KafkaException

from contract.errors import UnreachableError
from contract.settings import Settings
from headrace import offsets, stack, status
from headrace.up import TRIES, last_line
from streams.lag import Row, total

POLL_S = 1.0
CALM_AFTER_START_S = 3.0
CALM_AFTER_IDLE_S = 2.0
STUCK_S = 180.0
SAID_EVERY_S = 5.0
SILENT = "Kafka does not answer"


def wait(settings: Settings, say: Callable[[str], None], calm_s: float) -> None:
    """Return once no group has lagged for `calm_s` and a version is served.

    Raises UnreachableError when a role keeps ending, or when nothing moves for three minutes.
    """
    calm_since = moved = said = time.monotonic()
    before: list[Row] = []
    while True:
        rows = _look(settings)
        now = time.monotonic()
        if rows and [(r.committed, r.end) for r in rows] != [(r.committed, r.end) for r in before]:
            before, moved = rows, now
        if not rows or total(rows) or status.served_version(settings) is None:
            calm_since = now
        if now - calm_since >= calm_s:
            return
        if now - said >= SAID_EVERY_S:
            say(f"records left: {by_group(rows)}" if rows else SILENT)
            said = now
        _refuse_stuck(settings, rows, now - moved)
        time.sleep(POLL_S)


def _look(settings: Settings) -> list[Row]:
    """Rows of all groups; none while Kafka does not answer, which a busy machine gets over."""
    try:
        return offsets.lag(settings)
    except (KafkaException, TimeoutError, UnreachableError):
        return []


def calm_s(settings: Settings, *, events: bool, started: bool) -> float:
    """How long lag must be 0 to mean that all is done.

    After events longer than the join's idle time-out: by then idle partitions have closed their windows, and what came
    of that is learned too.
    """
    if events:
        return settings.join.idle_timeout_ms / 1000 + CALM_AFTER_IDLE_S
    return CALM_AFTER_START_S if started else 0.0


def by_group(rows: Sequence[Row]) -> str:
    """Lag of each group in one line."""
    groups = dict.fromkeys(one.group.rsplit(".", 1)[-1] for one in rows)
    return ", ".join(f"{g} {total(r for r in rows if r.group.rsplit('.', 1)[-1] == g):,}" for g in groups)


def _refuse_stuck(settings: Settings, rows: Sequence[Row], still_s: float) -> None:
    record = stack.read_record(settings.data_dir)
    for name, process in (record.processes if record else {}).items():
        if process.restarts >= TRIES and process.state == "backing-off":
            raise UnreachableError(
                f"{name} keeps ending (exit {process.last_exit}): {last_line(settings.data_dir, name)}"
            )
    if still_s > STUCK_S:
        raise UnreachableError(
            f"nothing moved for {STUCK_S:.0f} s ({by_group(rows) if rows else SILENT}): see `headrace status`, "
            f"`headrace lag` and {settings.data_dir / 'logs'}"
        )
