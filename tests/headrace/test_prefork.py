"""A role's starter and worker."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from headrace.process import wait_until, worker_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a role has no starter")

WORK = """
import os, signal, sys, time
from contract import log
from headrace import prefork

def work():
    {before}
    told = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda n, _: told.append(n))
    print("working", os.getpid(), flush=True)
    while not told:
        time.sleep(0.01)
    print("told", told, flush=True)
    {end}

log.set_up("test")
prefork.run(work)
"""


@contextmanager
def starter(log: Path, end: str = "", before: str = "") -> Iterator[subprocess.Popen[bytes]]:
    """Start a starter whose worker runs until it is told to end; writes to `log`."""
    program = WORK.replace("{end}", end).replace("{before}", before)
    with log.open("wb") as out:
        process = subprocess.Popen([sys.executable, "-c", program], stdout=out, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)


def at_work(log: Path, times: int) -> int:
    """Wait until that many workers have begun; pid of the last."""
    assert wait_until(lambda: log.read_bytes().count(b"working") >= times, 20), log.read_text()
    return int(log.read_text().split("working ")[-1].split()[0])


def is_gone(pid: int) -> bool:
    """Whether a process has ended."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_killed_worker_is_forked_again(tmp_path: Path) -> None:
    """The starter lives on, and another worker is there without the imports of a new process."""
    log = tmp_path / "log"
    with starter(log) as process:
        first = at_work(log, 1)
        time.sleep(2.1)  # it ran well: no waiting
        killed_at = time.monotonic()
        os.kill(first, signal.SIGKILL)
        second = at_work(log, 2)
        assert second != first
        assert second == worker_of(process.pid)
        assert time.monotonic() - killed_at < 1
        assert process.poll() is None
        assert b'event="worker killed" signal=SIGKILL' in log.read_bytes()


def test_a_worker_that_dies_at_once_is_forked_later_and_later(tmp_path: Path) -> None:
    """Kills in a row are counted, and the starter can be told to end while it waits."""
    log = tmp_path / "log"
    with starter(log) as process:
        for n in range(1, 4):
            os.kill(at_work(log, n), signal.SIGKILL)
        assert wait_until(lambda: b"at_once=3" in log.read_bytes(), 10)
        process.terminate()
        assert process.wait(10) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_the_starter_is_told_the_worker_is_told(tmp_path: Path, number: signal.Signals) -> None:
    """SIGTERM and SIGINT are passed on once; the starter ends with the worker's exit code."""
    log = tmp_path / "log"
    with starter(log, "sys.exit(7)") as process:
        at_work(log, 1)
        process.send_signal(number)
        assert process.wait(10) == 7
        assert f"told [{int(number)}]" in log.read_text()


def test_a_worker_that_ends_by_sigterm_is_not_forked_again(tmp_path: Path) -> None:
    """A worker told to end before it listens dies of the signal; that is an end, not a kill."""
    log = tmp_path / "log"
    with starter(log, before="signal.signal = lambda *_: None") as process:
        os.kill(at_work(log, 1), signal.SIGTERM)
        assert process.wait(10) == 128 + signal.SIGTERM


def test_a_killed_starter_takes_its_worker_with_it(tmp_path: Path) -> None:
    """Nobody is left behind, not even a worker that is stopped."""
    log = tmp_path / "log"
    with starter(log) as process:
        worker = at_work(log, 1)
        os.kill(worker, signal.SIGSTOP)
        process.kill()
        process.wait(10)
        assert wait_until(lambda: is_gone(worker), 10)
