"""Where every consumer group of a namespace is, and how it fares: what streams has watched, else watched here.

A state needs several looks over some time. The streams role keeps them and gives them at /lag; a command adds the look
of now and judges. Where no streams role answers (it may be what has died), the command looks itself, for a moment: it
cannot wait as long as a role may pause between two commits. What stands still then is judged by how long its first
unread record has lain there, and by whether its role still answers (it may be catching up).
"""

import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import msgspec
from msgspec import structs

from contract.settings import Settings
from headrace import ports
from streams import groups
from streams.lag import WINDOW, Look, Place, Row, State, Watch, brief

PAGE_TIMEOUT_S = 0.5
PATIENCE_S = 1.0
LOOKS_S = 1.0
PAUSE_S = 0.25


def lag(settings: Settings) -> list[Row]:
    """Rows of all groups as of now, not judged. Raises UnreachableError when the broker does not answer."""
    return groups.lag(settings)


def judged(settings: Settings, waiting: Callable[[float], Any] = time.sleep) -> list[Row]:
    """Rows of all groups with their states; takes a moment where streams is not there to be asked.

    Raises UnreachableError when the broker does not answer.
    """
    watch = Watch(watched(settings))
    until_s = time.monotonic() + LOOKS_S
    rows = watch.add(_now(settings), _now_ms())
    while watch.undecided() and time.monotonic() < until_s:
        waiting(PAUSE_S)
        rows = watch.add(_now(settings), _now_ms())
    at_work: dict[str, bool] = {}
    return [_judged(settings, watch, row, at_work) for row in rows]


def _judged(settings: Settings, watch: Watch, row: Row, at_work: dict[str, bool]) -> Row:
    """A row with the state that its few looks give; one with a whole window of them has its state."""
    looks = list(watch.looks[row.group, row.topic, row.partition])
    if len(looks) >= WINDOW:
        return row
    state = brief(looks, row.behind_s, settings.train.checkpoint_interval_ms)
    if state in {State.STOP, State.STALL}:
        if row.group not in at_work:
            at_work[row.group] = _answers(settings, row.group)
        state = State.OK if at_work[row.group] else state
    return structs.replace(row, state=state)


def _answers(settings: Settings, group: str) -> bool:
    """Whether the page of a group's role says that it is well."""
    ports_of = {"trainer": settings.train.port, "publisher": settings.publisher.port}
    port = next((port for role, port in ports_of.items() if settings.names.group(role) == group), settings.streams.port)
    try:
        with ports.page(settings.pages_host, port, "/healthz", PAGE_TIMEOUT_S) as answer:
            return bool(answer.status == HTTPStatus.OK)
    except OSError:
        return False


def _now(settings: Settings) -> list[Row]:
    return groups.lag(settings, patience_s=PATIENCE_S)


def watched(settings: Settings) -> dict[Place, list[Look]]:
    """Looks that this namespace's streams role has kept; none where none answers."""
    try:
        with ports.page(settings.pages_host, settings.streams.port, "/lag", PAGE_TIMEOUT_S) as answer:
            rows = msgspec.json.decode(answer.read(), type=list[_Watched])
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return {}
    ours = {settings.names.group(role) for role in groups.READS}
    return {(row.group, row.topic, row.partition): row.looks for row in rows if row.group in ours}


class _Watched(msgspec.Struct):
    """What is needed of a row of /lag."""

    group: str
    topic: str
    partition: int
    looks: list[Look]


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
