"""Ends this process when a call into librdkafka lasts for too long.

A transaction that outlives the broker's time-out for it: by then the broker has aborted it, or will; a new process
fences it and goes on from what is committed. Nothing gentler helps: send_offsets_to_transaction may block for ever,
whatever time-out it is given, after the broker was away (confluentinc/librdkafka #5456, #5511), and a call into C
cannot be interrupted. Likewise the closing of a consumer that was fenced: what is not committed by then never happened.
"""

import os
import threading
import time
from types import TracebackType

from contract import log

TICK_S = 0.5


class Deadline:
    """A context that must be left within `limit_s` of running time; time in which the process was stopped is not."""

    def __init__(self, what: str, limit_s: float) -> None:
        self._what, self._limit_s = what, limit_s
        self._entries = 0
        self._inside = 0  # number of the entry; 0 outside. Only the context's user writes it
        self._thread: threading.Thread | None = None

    def __enter__(self) -> None:
        self._entries += 1
        self._inside = self._entries
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="deadline", daemon=True)
            self._thread.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._inside = 0

    def _watch(self) -> None:
        seen, ticks = 0, 0
        while True:
            time.sleep(TICK_S)
            inside = self._inside
            ticks = ticks + 1 if inside and inside == seen else 0
            seen = inside
            if ticks * TICK_S > self._limit_s:
                log.get().error(f"{self._what} hangs: this process ends, the next one goes on", seconds=self._limit_s)
                os._exit(1)
