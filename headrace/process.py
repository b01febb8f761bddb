"""Processes that we start, and the care not to touch any other.

A pid alone names nobody for long. A process of ours is known by its pid *and* its start time, and everything under a
supervisor also carries the stack's id in its environment, so that even a child whose pid was never written down (the
supervisor died in between) is found again.
"""

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

STACK_VARIABLE = "STACK_OF_HEADRACE"  # not HEADRACE_...: those are settings
START_TOLERANCE_S = 2.0  # a start time is boot time + ticks, and the clock may have been set since


class Identity(NamedTuple):
    """A process by pid and start time (epoch seconds)."""

    pid: int
    created: float


def identify(pid: int) -> Identity | None:
    """Identity of a pid that runs now; None if nothing does."""
    try:
        return Identity(pid, psutil.Process(pid).create_time())
    except psutil.Error:
        return None


def find(identity: Identity) -> psutil.Process | None:
    """Give the process if it still runs and is the same one; a zombie has ended."""
    try:
        process = psutil.Process(identity.pid)
        same = abs(process.create_time() - identity.created) < START_TOLERANCE_S
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.Error:
        return None


def is_alive(identity: Identity | None) -> bool:
    """Whether exactly this process still runs."""
    return identity is not None and find(identity) is not None


def of_stack(stack_id: str) -> list[psutil.Process]:
    """Every process of this user that carries the stack's id in its environment."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(STACK_VARIABLE) == stack_id and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def spawn(
    command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None, cwd: Path | None = None
) -> subprocess.Popen[bytes]:
    """Start a command in its own session, without a terminal; both outputs are appended to `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out:
        return subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            cwd=cwd,
            start_new_session=True,
        )


def stop(processes: Iterable[psutil.Process], grace_s: float) -> None:
    """SIGTERM, wait, and SIGKILL what still runs after `grace_s`; returns when all are gone."""
    waiting = list(processes)
    for process in waiting:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    wait_until(lambda: all(map(_has_ended, waiting)), grace_s)
    left = [process for process in waiting if not _has_ended(process)]
    for process in left:
        with contextlib.suppress(psutil.Error):
            process.kill()
    wait_until(lambda: all(map(_has_ended, left)), 10)


def _has_ended(process: psutil.Process) -> bool:
    """Whether it is gone, or waits only for its parent to look (which we leave to the parent)."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.Error:
        return True


def worker_of(starter: int, known: int | None = None) -> int | None:
    """Pid of the worker that a role's starter has forked (headrace.prefork); None while there is none.

    The one that was `known` is not looked at again while it is there.

    A fork carries its parent's command line; what an import runs for a moment (torch does) has another.
    """
    try:
        children = [int(pid) for pid in Path(f"/proc/{starter}/task/{starter}/children").read_text().split()]
    except OSError:  # this kernel does not tell, or there is no such process
        children = []
        with contextlib.suppress(psutil.Error):
            children = [child.pid for child in psutil.Process(starter).children()]
    if known in children:
        return known
    for pid in children:
        with contextlib.suppress(psutil.Error):
            if psutil.Process(pid).cmdline() == psutil.Process(starter).cmdline():
                return pid
    return None


def pss_bytes(identity: Identity) -> int | None:
    """Proportional set size of a process and its children; resident size where the system does not tell it."""
    process = find(identity)
    if process is None:
        return None
    total = 0
    with contextlib.suppress(psutil.Error):
        for one in [process, *process.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                total += getattr(one.memory_full_info(), "pss", 0) or one.memory_info().rss
    return total


def wait_until(condition: Callable[[], bool], timeout_s: float, every_s: float = 0.05) -> bool:
    """Ask again and again; True as soon as the condition holds, False after `timeout_s`."""
    until = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(every_s)
    return True
