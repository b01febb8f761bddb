"""What `updates` says, replayed by code of its own: every row of every version, as of its last whole update.

A chunk counts if its crc holds; of a key that was written twice, the first that does. An update counts if all its
chunks are there; a delta only upon the sequence before it, a snapshot always.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from contract.errors import BadInputError
from contract.messages import decoder
from contract.updates import Chunk, ItemRows, Manifest, Section, UserRows, decode_chunk

_section = decoder(Section)


class ItemState(NamedTuple):
    """An item as published: ID row, vector, clicks as of a click number, each as bytes."""

    row: bytes
    vector: bytes
    clicks: bytes
    clicks_at: bytes


@dataclass(slots=True)
class Version:
    """A version after its updates up to `sequence`."""

    sequence: int = -1
    manifest: Manifest | None = None
    users: dict[str, bytes] = field(default_factory=dict)
    items: dict[str, ItemState] = field(default_factory=dict)


class Published(NamedTuple):
    """One whole update: where it is, what kind, and its sections."""

    kind: str
    version: int
    sequence: int
    sections: list[Section]


def whole_updates(values: Iterable[bytes]) -> Iterator[Published]:
    """Whole updates of the records of `updates`, in order of their last chunk."""
    open_chunks: dict[tuple[int, int, str], dict[int, Chunk]] = {}
    for value in values:
        try:
            chunk = decode_chunk(value)
        except BadInputError:
            continue
        at = (chunk.version, chunk.sequence, chunk.kind)
        chunks = open_chunks.setdefault(at, {})
        chunks.setdefault(chunk.chunk, chunk)
        if len(chunks) == chunk.chunks:
            sections = [_section.decode(chunks[n].section) for n in range(chunk.chunks)]
            del open_chunks[at]
            yield Published(chunk.kind, chunk.version, chunk.sequence, sections)


def replayed(updates: Iterable[Published]) -> dict[int, Version]:
    """Every version after all of its updates."""
    versions: dict[int, Version] = {}
    for update in updates:
        version = versions.setdefault(update.version, Version())
        if update.kind == "snapshot" and update.sequence > version.sequence:
            version = versions[update.version] = Version()
        elif update.sequence != version.sequence + 1 or version.manifest is None:
            continue
        version.sequence = update.sequence
        _apply(version, update.sections)
    return {number: version for number, version in versions.items() if version.manifest is not None}


def _apply(version: Version, sections: Iterable[Section]) -> None:
    for section in sections:
        match section:
            case Manifest():
                tokens = section.tokens or (version.manifest.tokens if version.manifest else {})
                version.manifest = msgspec.structs.replace(section, tokens=tokens)
            case UserRows():
                for gone in section.deleted:
                    version.users.pop(gone, None)
                version.users |= zip(section.ids, _pieces(section.rows, len(section.ids)), strict=True)
            case ItemRows():
                for gone in section.deleted:
                    version.items.pop(gone, None)
                count = len(section.ids)
                columns = (section.rows, section.vectors, section.counts, section.count_at)
                states = map(ItemState, *(_pieces(column, count) for column in columns))
                version.items |= zip(section.ids, states, strict=True)


def _pieces(data: bytes, count: int) -> list[bytes]:
    width = len(data) // count if count else 0
    return [data[n * width : (n + 1) * width] for n in range(count)]
