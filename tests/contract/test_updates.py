"""Updates travel whole or not at all."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.errors import BadInputError
from contract.messages import encode
from contract.updates import (
    Assembler,
    Chunk,
    Manifest,
    Section,
    Update,
    cut,
    decode_chunk,
    floats,
    item_sections,
    tensor_sections,
    user_sections,
)

MANIFEST = Manifest(
    4, [0.6], 20, 0, 0.2, "prior", 1.0, 0.5, 5000.0, 7.0, 1, 2, 3, 4, 5, 6, 7, tokens={"profile": [("a", "=b")]}
)


def sections(users: int, items: int, chunk_bytes: int, seed: int = 0) -> list[Section]:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(users, 4)).astype(np.float32)
    item_rows = rng.normal(size=(items, 4)).astype(np.float32)
    return [
        MANIFEST,
        *tensor_sections("user.W", rng.normal(size=(12, 4)).astype(np.float32), chunk_bytes),
        *user_sections([f"u{n}" for n in range(users)], rows, ["gone"], chunk_bytes),
        *item_sections(
            [f"i{n}" for n in range(items)],
            item_rows,
            -item_rows,
            item_rows[:, 0],
            np.arange(items, dtype=float),
            [],
            chunk_bytes,
        ),
    ]


def assemble(chunks: list[Chunk]) -> list[Update]:
    assembler = Assembler()
    found = [assembler.add(decode_chunk(encode(chunk))) for chunk in chunks]
    return [update for update in found if update is not None]


@given(st.integers(0, 40), st.integers(0, 40), st.integers(64, 20_000))
def test_an_update_comes_back_as_it_was_cut(users: int, items: int, chunk_bytes: int) -> None:
    """Any sizes, any chunk size: rows, vectors, counts and tensors come back bit for bit, with the last chunk only."""
    chunks = cut("snapshot", 3, 9, sections(users, items, chunk_bytes))
    assert assemble(chunks[:-1]) == []
    (update,) = assemble(chunks)
    assert (update.kind, update.version, update.sequence, update.manifest) == ("snapshot", 3, 9, MANIFEST)
    rng = np.random.default_rng(0)
    rows, item_rows = rng.normal(size=(users, 4)), rng.normal(size=(items, 4))
    assert np.array_equal(update.tensors["user.W"], rng.normal(size=(12, 4)).astype(np.float32))
    got = np.concatenate([floats(part.rows, 4) for part in update.users])
    assert np.array_equal(got, rows.astype(np.float32))
    got = np.concatenate([floats(part.vectors, 4) for part in update.items])
    assert np.array_equal(got, -item_rows.astype(np.float32))
    assert [i for part in update.users for i in part.ids] == [f"u{n}" for n in range(users)]
    assert [i for part in update.users for i in part.deleted] == ["gone"]


def test_an_overtaken_update_never_completes() -> None:
    """A log whose compaction took some chunks gives no half update, and the next whole one still comes out."""
    old, new = cut("snapshot", 1, 0, sections(9, 9, 64)), cut("delta", 1, 1, sections(1, 1, 20_000))
    assert [u.sequence for u in assemble([*old[:2], *old[3:], *new])] == [1]
    assert [u.sequence for u in assemble([*old[1:], *new])] == [1]
    assert [u.sequence for u in assemble([*old[:2], *new])] == [1]


def test_a_flipped_bit_is_refused() -> None:
    """crc32 guards each chunk, its numbers too: BadInputError names version, sequence and chunk."""
    chunk = cut("delta", 2, 5, sections(3, 3, 20_000))[2]
    section = bytearray(chunk.section)
    section[-9] ^= 1
    with pytest.raises(BadInputError, match="version 2 sequence 5 chunk 2"):
        decode_chunk(encode(msgspec.structs.replace(chunk, section=bytes(section))))
    with pytest.raises(BadInputError, match="version 2 sequence 6 chunk 2"):
        decode_chunk(encode(msgspec.structs.replace(chunk, sequence=6)))
    with pytest.raises(BadInputError, match="does not decode"):
        decode_chunk(b"\xc1garbage")
    whole = encode(chunk)
    for at in range(0, len(whole), 1 + len(whole) // 300):
        with pytest.raises(BadInputError):
            decode_chunk(whole[:at] + bytes([whole[at] ^ 128]) + whole[at + 1 :])
