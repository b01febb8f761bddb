"""Long benchmarks: how far they are, and several parts at once."""

import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

EVERY_S = 20


class Progress:
    """Lines on standard error, every EVERY_S seconds and as something ends."""

    def __init__(self, name: str) -> None:
        self.name, self.begun, self.last = name, time.monotonic(), 0.0

    def __call__(self, what: str, done: int, of: int) -> None:
        """Say how far it is."""
        now = time.monotonic()
        if done < of and now - self.last < EVERY_S:
            return
        self.last = now
        share = "" if of == 1 else f" {100 * done // of} %"
        sys.stderr.write(f"{self.name}: {what}{share}, {now - self.begun:.0f} s\n")
        sys.stderr.flush()


def in_processes(work: Callable[..., None], tasks: Sequence[tuple[Any, ...]], processes: int) -> None:
    """Call `work` with each task's arguments, in that order, so many at a time; one at a time: here."""
    if min(processes, len(tasks)) <= 1:
        for task in tasks:
            work(*task)
        return
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        for future in [pool.submit(work, *task) for task in tasks]:
            future.result()
