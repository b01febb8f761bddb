"""Ports of this machine: whether one is free, whether a server answers there, and what its pages say."""

import errno
import itertools
import os
import socket
from collections.abc import Iterable, Iterator
from typing import Any

LOOPBACK = "127.0.0.1"
# Below what Linux (32768) and others (49152) lend to outgoing connections: one of those may take a port that a server
# is to listen on, now or when it starts again.
LISTENED = range(20_000, 32_768)
EVERYWHERE = {"0.0.0.0": LOOPBACK, "::": "::1"}  # noqa: S104  (compared, not bound)


def _beginning_at(place: int) -> Iterator[int]:
    """All of LISTENED in its order, again and again, from a place on."""
    while True:
        yield LISTENED[place % len(LISTENED)]
        place += 1


_others = _beginning_at(os.getpid() * 1009)  # processes that choose at the same time begin far apart


def asked(host: str) -> str:
    """Address to ask a server at that listens on `host`: one that listens everywhere is asked on the loopback."""
    return EVERYWHERE.get(host, host)


def url(host: str, port: int, path: str = "") -> str:
    """URL of a page of a server that listens on `host`, as it is asked for from this machine."""
    at = asked(host)
    return f"http://[{at}]:{port}{path}" if ":" in at else f"http://{at}:{port}{path}"


def page(host: str, port: int, path: str, timeout_s: float) -> Any:
    """Open a page of a server that listens on `host`, never by way of a proxy; OSError where none answers."""
    from http.client import HTTPException  # noqa: PLC0415  (`--help` does not wait for it; likewise below)
    from urllib.request import ProxyHandler, build_opener  # noqa: PLC0415

    try:
        return build_opener(ProxyHandler({})).open(url(host, port, path), timeout=timeout_s)
    except (HTTPException, UnicodeError) as error:  # something else listens there, or that can be no host
        raise OSError(f"no HTTP server: {type(error).__name__}") from None


def is_free(port: int) -> bool:
    """Whether a server could listen on the port of the loopback now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def answers(port: int, host: str = LOOPBACK) -> bool:
    """Whether a server that listens on `host` accepts connections."""
    try:
        socket.create_connection((asked(host), port), 0.3).close()
    except OSError:
        return False
    return True


def free(preferred: int = 0, taken: Iterable[int] = ()) -> int:
    """Give the preferred port if it is free and not already given to somebody, else any other, a new one each time."""
    used = set(taken)
    candidates = itertools.chain([preferred] if preferred else [], itertools.islice(_others, len(LISTENED)))
    for port in candidates:
        if port not in used and is_free(port):
            return port
    raise OSError(errno.EADDRINUSE, f"something listens on every port from {LISTENED.start} to {LISTENED.stop - 1}")
