"""A role's starter and worker: imports are done once, a worker that was killed is forked anew in milliseconds.

    headrace run ROLE = starter: has imported the role, then only waits (no socket, no thread of ours)
                          └─ worker: forked from it, does the work

    worker ends by itself or by SIGTERM  the starter ends with the same code; who started it decides
    worker is killed (-9, out of memory) forked again at once, with a log line; later and later if it dies at once
    starter is told to end               it passes that on and waits
    starter is killed                    the kernel kills the worker with it

Importing torch takes seconds, a fork takes milliseconds and shares the memory. Linux only (it needs PR_SET_PDEATHSIG,
and forking after imports is not safe on macOS): elsewhere the role runs in the process that was started.
"""

import ctypes
import gc
import os
import signal
import sys
import time
from collections.abc import Callable

from contract import crash, log
from headrace import backoff

PASSED_ON = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
WAITED_FOR = PASSED_ON | {signal.SIGCHLD}
WELL_S = 2.0  # who was killed after running for so long is forked again at once
PR_SET_PDEATHSIG = 1
FROM_KERNEL = 0  # sender of a Ctrl-C: the terminal has sent it to the worker too


def run(work: Callable[[], None]) -> None:
    """Run `work` in a worker, forked again whenever it is killed; returns, raises or exits as the worker does."""
    if sys.platform != "linux":
        work()
        return
    gc.freeze()  # what was imported is never garbage: its pages stay shared
    signal.pthread_sigmask(signal.SIG_BLOCK, WAITED_FOR)
    starter, kills = os.getpid(), 0
    while True:
        started = time.monotonic()
        worker = os.fork()
        if not worker:
            _die_with(starter)
            work()
            return
        code = _wait(worker)
        if code >= 0 or -code in PASSED_ON:  # it ended, or was told to before it could listen
            sys.exit(code if code >= 0 else 128 - code)
        kills = 0 if time.monotonic() - started > WELL_S else kills + 1
        log.get().warning("worker killed", signal=signal.Signals(-code).name, at_once=kills)
        if kills and signal.sigtimedwait(PASSED_ON, backoff.delay_s(kills)):
            sys.exit(0)  # told to end while there was nothing to end
        crash.arm()


def _die_with(starter: int) -> None:
    """In the worker: end when the starter does, and hear signals again."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != starter:  # it had ended before we asked
        os.kill(os.getpid(), signal.SIGKILL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, WAITED_FOR)


def _wait(worker: int) -> int:
    """Exit code of a worker, negative for a signal; what the starter is told meanwhile is passed on."""
    while True:
        told = signal.sigwaitinfo(WAITED_FOR)
        if told.si_signo == signal.SIGCHLD:
            pid, status = os.waitpid(worker, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
        elif not (told.si_signo == signal.SIGINT and told.si_pid == FROM_KERNEL):
            os.kill(worker, told.si_signo)
