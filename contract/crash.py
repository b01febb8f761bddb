"""Named kill points: with CRASH_POINT=name:n a process dies by SIGKILL the n-th time it passes that point (tests only).

CRASH_POINT_FILE names a file that may hold the same, read and removed when a role starts or its worker is forked again.
Without these variables a point does nothing.
"""

import contextlib
import os
import signal
from pathlib import Path

_name, _left = "", 0


def arm(asked: str = "") -> None:
    """Take what is asked for now; a worker that is forked again has left behind what it died of."""
    global _name, _left  # noqa: PLW0603  (one countdown in one process)
    if path := os.environ.get("CRASH_POINT_FILE"):
        with contextlib.suppress(FileNotFoundError):
            asked = Path(path).read_text(encoding="utf-8")
            Path(path).unlink()
    _name, _, times = asked.partition(":")
    _left = int(times or 1)


def point(name: str) -> None:
    """Die here, if this is the point and the passing that were asked for."""
    global _left  # noqa: PLW0603
    if name != _name:
        return
    _left -= 1
    if _left <= 0:
        os.kill(os.getpid(), signal.SIGKILL)


arm(os.environ.get("CRASH_POINT", ""))
