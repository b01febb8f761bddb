"""Run a command for as long as standard input stays open: `python -m headrace.leash COMMAND...`.

Whoever holds the other end of that pipe may be killed with -9, and the command still ends: the kernel closes the pipe.
"""

import os
import select
import signal
import subprocess
import sys

GRACE_S = 15.0


def main() -> int:
    """Start the command, wait for it or for the end of standard input, stop it."""
    child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: child.terminate())
    while child.poll() is None:
        if select.select([sys.stdin], [], [], 0.1)[0] and not os.read(sys.stdin.fileno(), 1024):
            child.terminate()
            try:
                child.wait(GRACE_S)
            except subprocess.TimeoutExpired:
                child.kill()
    return child.wait()


if __name__ == "__main__":
    sys.exit(main())
