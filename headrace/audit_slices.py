"""Records laid aside on disk by kind, partition and slice of users, so that what is joined at a time fits in memory."""

import struct
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

SLICE_EVENTS = 100_000  # raw events of a partition that are joined at a time, about
MAX_SLICES = 1_000
BUFFER_BYTES = 1 << 18
_HEAD = struct.Struct("<qqII")  # offset, arrival, bytes of the key, bytes of the value


class Kept(NamedTuple):
    """One record that was laid aside."""

    offset: int
    arrival_ms: int
    key: str
    value: bytes


class Slices:
    """A file for each kind of record, partition and slice of users; gone when the context ends."""

    def __init__(self, events: int) -> None:
        self.count = max(1, min(MAX_SLICES, -(-events // SLICE_EVENTS)))
        self._directory = tempfile.TemporaryDirectory(prefix="headrace-audit-")
        self._buffers: dict[Path, bytearray] = {}

    def keep(self, kind: str, partition: int, user: str, offset: int, arrival_ms: int, value: bytes) -> None:
        """Lay one record of a user aside; within a kind, partition and user they come back in this order."""
        key = user.encode("utf-8", "surrogatepass")
        path = self._path(kind, partition, zlib.crc32(key) % self.count)
        buffer = self._buffers.setdefault(path, bytearray())
        buffer += _HEAD.pack(offset, arrival_ms, len(key), len(value)) + key + value
        if len(buffer) > BUFFER_BYTES:
            self._write(path)

    def records(self, kind: str, partition: int, number: int) -> Iterator[Kept]:
        """Records of one kind and partition in one slice."""
        path = self._path(kind, partition, number)
        self._write(path)
        if not path.exists():
            return
        with path.open("rb") as file:
            while head := file.read(_HEAD.size):
                offset, arrival_ms, key_bytes, value_bytes = _HEAD.unpack(head)
                key = file.read(key_bytes).decode("utf-8", "surrogatepass")
                yield Kept(offset, arrival_ms, key, file.read(value_bytes))

    def _path(self, kind: str, partition: int, number: int) -> Path:
        return Path(self._directory.name) / f"{kind}-{partition}-{number}"

    def _write(self, path: Path) -> None:
        if buffer := self._buffers.pop(path, None):
            with path.open("ab") as file:
                file.write(buffer)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._directory.cleanup()
