"""Ports of this machine: whether one is free, whether a server answers there, and what its pages say."""

import socket
from collections.abc import Iterable
from typing import Any

LOOPBACK = "127.0.0.1"
EVERYWHERE = {"0.0.0.0": LOOPBACK, "::": "::1"}  # noqa: S104  (compared, not bound)


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
    """Give the preferred port if it is free and not already given to somebody, else any other."""
    used = set(taken)
    if preferred and preferred not in used and is_free(preferred):
        return preferred
    while True:
        with socket.socket() as probe:
            probe.bind((LOOPBACK, 0))
            port: int = probe.getsockname()[1]
        if port not in used:
            return port
