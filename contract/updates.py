"""What the trainer publishes and how it travels on `updates`: snapshots and deltas, cut into checked chunks.

A *version* is one set of towers; a *sequence* numbers what was published within it. A snapshot is whole: manifest,
tensors, all user-ID rows, all items. A delta holds what changed since the sequence before it. Each update is one Kafka
transaction on the one partition of `updates`; its records have the key `version/sequence/chunk` and are tombstoned once
a newer snapshot makes them needless.

    (version 3, sequence 0, snapshot)  chunk 0: Manifest   chunk 1: Tensors   chunk 2..: UserRows, ItemRows
    (version 3, sequence 1, delta)     chunk 0: Manifest                      chunk 1..: UserRows, ItemRows
    (version 3, sequence 500, snapshot) replaces sequences 0 to 499

Rows are little-endian float32, C order, so that what is served is what was learned, bit for bit.

Serving formulas (one place, both sides follow it; [..] gives shapes):

    user = [user-ID row | bag_1 .. bag_m | sum of profile-token rows | sum of context-token rows]      [(3 + m) * D]
           bag_i = sum_k decay_i**k * item-ID row of the k-th newest clicked item, / sum_k decay_i**k  [D]
           items without an ID row are passed over, k counts the ones that have one
    item = [item-ID row | sum of feature-token rows]                                                    [2 * D]
    tower(x) = normalise(x @ W + b  (+ relu(x @ W1 + b1) @ W2 where model.hidden > 0))                  [D]
           normalise(v) = v / max(norm(v), 1e-12)
    token sums are divided by sqrt(number of tokens); unknown ids and tokens are zero rows
    score = cos / temperature + prior_weight * log(count_now + prior_epsilon)      (correction "prior")
    score = cos                                                                    ("logq", "none")
    count_now = count * 2 ** (-(click_number_now - count_at) / prior_half_life_clicks)

Tensors of a snapshot by name: `user.W` [(3+m)D, D], `user.b` [D], `item.W` [2D, D], `item.b` [D], with a hidden layer
`user.W1 user.b1 user.W2 item.W1 item.b1 item.W2`; `profile.rows`, `context.rows`, `item_features.rows` [n, D], whose
tokens stand in the manifest's `tokens` under the same stem, in row order.
"""

import zlib
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Struct

from contract.errors import BadInputError
from contract.features import Token
from contract.messages import decoder, encode

F32 = npt.NDArray[np.float32]


class Manifest(Struct, frozen=True, array_like=True, tag="manifest"):
    """First chunk of every update."""

    dim: int
    history_decays: list[float]
    history_length: int
    hidden: int
    temperature: float
    correction: str
    prior_weight: float
    prior_epsilon: float
    prior_half_life_clicks: float
    click_number: float  # clicks counted so far: "now" of the counts
    event_ms: int  # how far the learning is, event time
    arrival_ms: int  # newest click arrival learned; 0: none
    published_ms: int  # wall time
    samples: int  # learned so far
    full_updates: int
    users: int  # user-ID rows of the version after this update
    items: int  # items of the version after this update
    metrics: dict[
        str, float
    ] = {}  # progressive recall: recall_at_10 .. popularity_recall_at_100, and their count `scored`
    tokens: dict[str, list[Token]] = {}  # snapshots: "profile", "context", "item_features"


class Tensor(Struct, frozen=True, array_like=True):
    """One named float32 array."""

    name: str
    shape: list[int]
    data: bytes


class Tensors(Struct, frozen=True, array_like=True, tag="tensors"):
    """An array of a snapshot, or a part of one that starts at `first_row` of the whole's `rows` (axis 0)."""

    tensor: Tensor
    first_row: int = 0
    rows: int = -1


class UserRows(Struct, frozen=True, array_like=True, tag="users"):
    """User-ID rows [n, D] by id, and ids whose row is gone."""

    ids: list[str]
    rows: bytes
    deleted: list[str] = []


class ItemRows(Struct, frozen=True, array_like=True, tag="items"):
    """Items by id: ID rows [n, D], unit vectors [n, D], counts [n] as of click numbers count_at [n] (float64)."""

    ids: list[str]
    rows: bytes
    vectors: bytes
    counts: bytes
    count_at: bytes
    deleted: list[str] = []


Section = Manifest | Tensors | UserRows | ItemRows


class Chunk(Struct, frozen=True, array_like=True):
    """One record on `updates`: an encoded Section and what is needed to put the update together again."""

    kind: Literal["snapshot", "delta"]
    version: int
    sequence: int
    chunk: int
    chunks: int
    crc32: int  # of the section and of the fields above
    section: bytes

    @property
    def key(self) -> bytes:
        """Record key."""
        return f"{self.version}/{self.sequence}/{self.chunk}".encode()

    @property
    def sum(self) -> int:
        """What crc32 should be."""
        head = f"{self.kind}/{self.version}/{self.sequence}/{self.chunk}/{self.chunks}"
        return zlib.crc32(self.section, zlib.crc32(head.encode()))


class Update(Struct, frozen=True):
    """A whole update, put together."""

    kind: Literal["snapshot", "delta"]
    version: int
    sequence: int
    manifest: Manifest
    tensors: dict[str, F32]
    users: list[UserRows]
    items: list[ItemRows]


_chunk = decoder(Chunk)
_section = decoder(Section)


def floats(data: bytes, width: int) -> F32:
    """Rows [n, width] of packed float32, read-only."""
    return np.frombuffer(data, "<f4").reshape(-1, width)


def cut(kind: Literal["snapshot", "delta"], version: int, sequence: int, sections: Iterable[Section]) -> list[Chunk]:
    """Chunks of an update whose sections (manifest first) each fit one message already."""
    payloads = [encode(section) for section in sections]
    chunks = [Chunk(kind, version, sequence, n, len(payloads), 0, payload) for n, payload in enumerate(payloads)]
    return [msgspec.structs.replace(chunk, crc32=chunk.sum) for chunk in chunks]


def tensor_sections(name: str, array: F32, chunk_bytes: int) -> Iterator[Tensors]:
    """One array as parts of at most `chunk_bytes` along axis 0."""
    array = np.ascontiguousarray(array, "<f4")
    rows = array.shape[0]
    step = max(1, chunk_bytes // max(1, array[:1].nbytes)) if rows else 1
    for first in range(0, max(rows, 1), step):
        part = array[first : first + step]
        yield Tensors(Tensor(name, list(part.shape), part.tobytes()), first, rows)


def user_sections(ids: list[str], rows: F32, deleted: list[str], chunk_bytes: int) -> Iterator[UserRows]:
    """User rows [n, D] as sections of about `chunk_bytes`."""
    step = max(1, chunk_bytes // (rows.shape[1] * 4 + 300)) if len(ids) else 1
    for n in range(0, max(len(ids), 1), step):
        yield UserRows(ids[n : n + step], _pack(rows[n : n + step]), deleted if n == 0 else [])


def item_sections(
    ids: list[str],
    rows: F32,
    vectors: F32,
    counts: F32,
    count_at: npt.NDArray[np.float64],
    deleted: list[str],
    chunk_bytes: int,
) -> Iterator[ItemRows]:
    """Items as sections of about `chunk_bytes`; arrays [n, D], [n, D], [n], [n]."""
    step = max(1, chunk_bytes // (rows.shape[1] * 8 + 312)) if len(ids) else 1
    for n in range(0, max(len(ids), 1), step):
        part = slice(n, n + step)
        at = np.ascontiguousarray(count_at[part], "<f8").tobytes()
        yield ItemRows(
            ids[part], _pack(rows[part]), _pack(vectors[part]), _pack(counts[part]), at, deleted if n == 0 else []
        )


def decode_chunk(value: bytes) -> Chunk:
    """Decode and check one record; BadInputError when the bytes are not what their crc says."""
    try:
        chunk: Chunk = _chunk.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadInputError(f"a chunk on updates does not decode: {error}") from None
    if chunk.sum != chunk.crc32:
        raise BadInputError(f"version {chunk.version} sequence {chunk.sequence} chunk {chunk.chunk}: crc32 differs")
    return chunk


class Assembler:
    """Puts chunks together; an update comes out with its last chunk.

    Chunks of an update come in order and in one transaction; one that was overtaken (a compacted log lost some of its
    chunks) never completes and is dropped when the next update begins.
    """

    def __init__(self) -> None:
        self._chunks: list[Chunk] = []

    def add(self, chunk: Chunk) -> Update | None:
        """Take the next chunk; give the update if it is now whole."""
        if chunk.chunk == 0:
            self._chunks = [chunk]
        elif self._chunks and _follows(self._chunks[-1], chunk):
            self._chunks.append(chunk)
        else:
            self._chunks = []
            return None
        return self._whole() if len(self._chunks) == chunk.chunks else None

    def _whole(self) -> Update:
        first = self._chunks[0]
        sections = [_section.decode(c.section) for c in self._chunks]
        self._chunks = []
        manifest = sections[0]
        if not isinstance(manifest, Manifest):
            raise BadInputError(f"version {first.version} sequence {first.sequence}: the first chunk is no manifest")
        tensors: dict[str, F32] = {}
        for part in sections:
            if isinstance(part, Tensors):
                data = np.frombuffer(part.tensor.data, "<f4").reshape(part.tensor.shape)
                if part.first_row == 0 and part.rows == len(data):
                    tensors[part.tensor.name] = data
                else:
                    whole = tensors.setdefault(part.tensor.name, np.zeros((part.rows, *data.shape[1:]), np.float32))
                    whole[part.first_row : part.first_row + len(data)] = data
        return Update(
            first.kind,
            first.version,
            first.sequence,
            manifest,
            tensors,
            [s for s in sections if isinstance(s, UserRows)],
            [s for s in sections if isinstance(s, ItemRows)],
        )


def _follows(before: Chunk, chunk: Chunk) -> bool:
    return (before.version, before.sequence, before.kind, before.chunk + 1) == (
        chunk.version,
        chunk.sequence,
        chunk.kind,
        chunk.chunk,
    )


def _pack(array: Any) -> bytes:
    return np.ascontiguousarray(array, "<f4").tobytes()
