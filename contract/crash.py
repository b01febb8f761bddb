"""Named kill points: with CRASH_POINT=name:n a process dies by SIGKILL the n-th time it passes that point (tests only).

Without that variable a point does nothing.
"""

import os
import signal

_name, _, _times = os.environ.get("CRASH_POINT", "").partition(":")
_left = int(_times or 1)


def point(name: str) -> None:
    """Die here, if this is the point and the passing that were asked for."""
    global _left  # noqa: PLW0603  (one countdown in one process)
    if name != _name:
        return
    _left -= 1
    if _left <= 0:
        os.kill(os.getpid(), signal.SIGKILL)


def disarm() -> None:
    """Die nowhere from here on: who is forked again after a death at a kill point has left it behind."""
    global _name  # noqa: PLW0603
    _name = ""
