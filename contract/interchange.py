"""The interchange format: a directory with a user's own events, ready to replay or to evaluate.

    DIR/exposures.jsonl.gz  DIR/clicks.jsonl.gz  DIR/items.jsonl.gz  DIR/users.jsonl.gz

Each line is one message of the raw topic of that name (`headrace schema`), ids are strings, lines are sorted by
`ts_ms`. Any file may be empty or missing, but not all four; plain `.jsonl` is taken too.
"""

import gzip
import heapq
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, NamedTuple, cast

from msgspec import Struct

from contract.errors import BadInputError
from contract.messages import RAW_TYPES, Click, Exposure, Item, User, decode_raw, encode_json

TOPICS = ("items", "users", "exposures", "clicks")  # the order of a replay: what things are, then what happened
EVENT_TOPICS = ("exposures", "clicks")
Message = Exposure | Click | Item | User


class Line(NamedTuple):
    """One checked line of a file; `number` counts from 1, `value` is the line as it was."""

    topic: str
    number: int
    value: bytes
    message: Message


def locate(directory: Path) -> dict[str, Path]:
    """File of each topic that the directory has one for; BadInputError when there is none at all."""
    if not directory.is_dir():
        raise BadInputError(f"{directory} is no directory: name one that holds {', '.join(_names(TOPICS))}")
    found: dict[str, Path] = {}
    for topic in TOPICS:
        paths = [path for path in (directory / name for name in _names((topic,))) if path.is_file()]
        if len(paths) > 1:
            raise BadInputError(f"{directory} holds both {paths[0].name} and {paths[1].name}: remove one")
        if paths:
            found[topic] = paths[0]
    if not found:
        raise BadInputError(f"{directory} holds no interchange file: wanted one or more of {', '.join(_names(TOPICS))}")
    return found


def open_lines(path: Path) -> IO[bytes]:
    """Open a file for reading lines, gzipped or plain (told by its first bytes); BadInputError if unreadable."""
    try:
        with path.open("rb") as probe:
            gzipped = probe.read(2) == b"\x1f\x8b"
        return cast("IO[bytes]", gzip.open(path, "rb")) if gzipped else path.open("rb")
    except OSError as error:
        raise BadInputError(f"cannot read {path}: {error.strerror}") from None


def numbered(source: IO[bytes], name: str) -> Iterator[tuple[int, bytes]]:
    """Non-empty lines with their numbers; BadInputError when the bytes stop making sense (a cut gzip file)."""
    number = 0
    try:
        for number, line in enumerate(source, 1):
            if text := line.strip():
                yield number, text
    except (OSError, EOFError) as error:
        raise BadInputError(f"{name}: unreadable after line {number}: {error}") from None


def read(path: Path, topic: str, *, ordered: bool = True) -> Iterator[Line]:
    """Checked lines of one file.

    Raises BadInputError naming file, line and reason; with `ordered` also where `ts_ms` goes back.
    """
    kind = RAW_TYPES[topic]
    newest_ms = 0
    with open_lines(path) as source:
        for number, value in numbered(source, str(path)):
            try:
                message = cast("Message", decode_raw(kind, value))
            except BadInputError as error:
                raise BadInputError(f"{path}:{number}: {error}") from None
            if ordered and message.ts_ms < newest_ms:
                raise BadInputError(
                    f"{path}:{number}: ts_ms goes back from {newest_ms} to {message.ts_ms}: sort the file by ts_ms"
                )
            newest_ms = message.ts_ms
            yield Line(topic, number, value, message)


def merged(paths: dict[str, Path]) -> Iterator[Line]:
    """Exposures and clicks of a directory as one stream by ts_ms; at equal ts exposures come first."""
    streams = [read(paths[topic], topic) for topic in EVENT_TOPICS if topic in paths]
    return heapq.merge(*streams, key=lambda line: (line.message.ts_ms, line.topic == "clicks"))


def write(directory: Path, topic: str, messages: Iterable[Struct]) -> int:
    """Write one gzipped file, sorted by ts_ms (ties keep their order); the same messages give the same bytes.

    Returns the number of lines. Every line is decoded once more as streams' door would.
    """
    directory.mkdir(parents=True, exist_ok=True)
    ordered = sorted(messages, key=lambda message: cast("Message", message).ts_ms)
    path = directory / f"{topic}.jsonl.gz"
    with path.open("wb") as file, gzip.GzipFile("", "wb", 9, file, mtime=0) as target:
        for message in ordered:
            line = encode_json(message)
            decode_raw(RAW_TYPES[topic], line)
            target.write(line + b"\n")
    return len(ordered)


def _names(topics: Iterable[str]) -> list[str]:
    return [f"{topic}.jsonl{end}" for topic in topics for end in (".gz", "")]
