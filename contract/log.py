"""One canonical logfmt line per batch, step window and version; secrets never."""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog


def set_up(role: str, level: str = "info") -> None:
    """Send structlog's lines to standard error as logfmt with a timestamp and the role."""

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


def get() -> Any:
    """Give the logger: `get().info("applied", version=42, seq=7)`."""
    return structlog.get_logger()
