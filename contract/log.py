"""One canonical logfmt line per batch, step window and version; secrets never."""

import logging
import sys
import time
from collections.abc import MutableMapping
from typing import Any

import structlog

SELDOM_S = 10.0
LONG_AGO_S = -1e9


class Seldom(logging.Handler):
    """Libraries' warnings and errors as lines like ours; each place in their code speaks once in SELDOM_S.

    While Kafka is away, its clients say so ten times a second. `unsaid` counts what was kept back. What librdkafka says
    is heard wherever its client is polled, and how it begins ("FAIL", "MAXPOLL") tells what it is about.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._said: dict[tuple[str, int, str], tuple[float, int]] = {}  # place: when, and how often not since

    def emit(self, record: logging.LogRecord) -> None:
        """Say it, or count it."""
        text, now = record.getMessage().strip(), time.monotonic()
        about = text.split(" ", 1)[0] if record.name == "librdkafka" else ""
        place = (record.pathname, record.lineno, about)
        at, unsaid = self._said.get(place, (LONG_AGO_S, 0))
        if now - at < SELDOM_S:
            self._said[place] = (at, unsaid + 1)
            return
        self._said[place] = (now, 0)
        more = {"unsaid": unsaid} if unsaid else {}
        get().log(record.levelno, text, by=record.name, exc_info=record.exc_info, **more)


def set_up(role: str, level: str = "info") -> None:
    """Send structlog's lines, and libraries' warnings, to standard error as logfmt with a timestamp and the role."""

    def add_role(_: Any, __: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        line["role"] = role  # a context variable would not reach the threads that a role starts
        return line

    structlog.configure(
        processors=[
            add_role,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
            structlog.processors.format_exc_info,
            structlog.processors.LogfmtRenderer(key_order=["ts", "level", "role", "event"], bool_as_flag=False),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    logging.root.handlers = [Seldom()]


def get() -> Any:
    """Give the logger: `get().info("applied", version=42, seq=7)`."""
    return structlog.get_logger()
