"""A process that hangs in a transaction ends; one that is done in time, or was only stopped, goes on."""

import os
import signal
import subprocess
import sys
import time

CODE = """
import sys, time
from contract import log
from streams.deadline import Deadline
log.set_up("streams", "info")
deadline = Deadline("transaction", 1.0)
for seconds in map(float, sys.argv[1:]):
    with deadline:
        time.sleep(seconds)
    time.sleep(0.1)
print("done")
"""


def started(*seconds: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", CODE, *seconds], stdout=subprocess.PIPE, text=True)


def test_what_hangs_ends() -> None:
    """Time outside the context does not count; inside, the limit ends the process with a failure."""
    quick = started("0.6", "0.6", "0.6")
    hanging = started("0.1", "60")
    assert (quick.communicate(timeout=30)[0].splitlines()[-1], quick.returncode) == ("done", 0)
    assert "done" not in hanging.communicate(timeout=30)[0]
    assert hanging.returncode == 1


def test_what_was_stopped_goes_on() -> None:
    """SIGSTOP for longer than the limit is no hang."""
    process = started("0.8")
    time.sleep(0.5)
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(2)
    os.kill(process.pid, signal.SIGCONT)
    assert (process.communicate(timeout=30)[0].splitlines()[-1], process.returncode) == ("done", 0)
