"""A full update asked for by hand: a small file that `headrace train full` leaves and the trainer takes.

Written aside and renamed, so that it is there whole or not at all; one at a time.
"""

from pathlib import Path

import msgspec
from msgspec import Struct

NAME = "request.msgpack"


class FullRequest(Struct, frozen=True):
    """What is asked for; empty places: all samples gathered since the last full update."""

    id: str
    dry_run: bool = False
    day: str = ""  # what they are, for the log
    partition: list[int] = []
    offset: list[int] = []


def leave(root: Path, request: FullRequest) -> bool:
    """Leave a request in the directory `full` of a namespace; False: one lies there already."""
    root.mkdir(parents=True, exist_ok=True)
    path, aside = root / NAME, root / f".{request.id}"
    aside.write_bytes(msgspec.msgpack.encode(request))
    try:
        path.hardlink_to(aside)
    except FileExistsError:
        return False
    finally:
        aside.unlink()
    return True


def look(root: Path) -> FullRequest | None:
    """The request that lies there, if one does; one that cannot be read is none, and goes."""
    try:
        found = msgspec.msgpack.decode((root / NAME).read_bytes(), type=FullRequest)
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, UnicodeDecodeError):
        found = None
    if found is None or len(found.partition) != len(found.offset):
        take(root)
        return None
    return found


def take(root: Path) -> None:
    """Remove the request."""
    (root / NAME).unlink(missing_ok=True)
