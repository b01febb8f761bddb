"""`headrace down`: stop what `up` started, and nothing else."""

import os
import signal
from pathlib import Path

from headrace import stack
from headrace.process import Identity, find, stop, wait_until

PATIENCE_S = 120.0  # the supervisor gives roles, Redis and Kafka their time, one after the other


def down(home: Path) -> list[str]:
    """Stop the stack of a data directory; give the names of what was stopped.

    The supervisor stops its children in order. One that was killed, or hangs, leaves them to us.
    """
    record = stack.read_record(home)
    if record is None:
        return []
    alive = [name for name in record.processes if stack.running(home, name)]
    if stack.is_supervised(home) and record.supervisor:
        supervisor = find(Identity(*record.supervisor))
        if supervisor is not None:
            os.kill(supervisor.pid, signal.SIGTERM)
            if not wait_until(lambda: not stack.is_supervised(home), PATIENCE_S):
                stop([supervisor], 0)
    left = stack.stop_orphans(record)
    return alive or (["orphans"] if left else [])
