"""Where every consumer group of a namespace is, and how it fares: what streams has watched, else watched here.

A state needs several looks over some time. The streams role keeps them and gives them at /lag; a command adds the look
of now and judges. Where no streams role answers (it may be what has died), the command looks itself, and no longer than
it must: until every partition that lags has been seen to get on, or the window is full.
"""

import time
from collections.abc import Callable
from typing import Any

import msgspec

from contract.settings import Settings
from headrace import ports
from streams import groups
from streams.lag import Look, Place, Row, Watch, interval_s

PAGE_TIMEOUT_S = 1.0


def lag(settings: Settings) -> list[Row]:
    """Rows of all groups as of now, not judged. Raises UnreachableError when the broker does not answer."""
    return groups.lag(settings)


def judged(settings: Settings, waiting: Callable[[float], Any] = time.sleep) -> list[Row]:
    """Rows of all groups with their states; takes a moment where streams is not there to be asked.

    Raises UnreachableError when the broker does not answer.
    """
    watch = Watch(watched(settings))
    rows = watch.add(groups.lag(settings), _now_ms())
    pause_s = interval_s(settings.train.checkpoint_interval_ms)
    while watch.undecided():
        waiting(pause_s)
        rows = watch.add(groups.lag(settings), _now_ms())
    return rows


def watched(settings: Settings) -> dict[Place, list[Look]]:
    """Looks that this namespace's streams role has kept; none where none answers."""
    try:
        with ports.page(settings.pages_host, settings.streams.port, "/lag", PAGE_TIMEOUT_S) as answer:
            rows = msgspec.json.decode(answer.read(), type=list[_Watched])
    except (OSError, msgspec.MsgspecError):
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
