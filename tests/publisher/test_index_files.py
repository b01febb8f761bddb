"""Index files: whole or not at all."""

import resource
import shutil
from pathlib import Path

import numpy as np
import pytest

from contract.errors import DataLossError
from contract.messages import encode
from contract.updates import Assembler, Update, decode_chunk
from publisher import index_files, model
from publisher.model import Model
from tests.publisher.worlds import World, new_world


def assembled(chunks: list[object]) -> Update:
    """The update of some chunks, by way of their bytes."""
    assembler, update = Assembler(), None
    for chunk in chunks:
        update = assembler.add(decode_chunk(encode(chunk)))  # type: ignore[arg-type]
    assert update is not None
    return update


def built(world: World, exact_max_items: int = 1_000) -> Model:
    """Model of a world's snapshot."""
    return model.from_snapshot(assembled(list(world.snapshot())), 12, exact_max_items)


def same(one: Model, other: Model) -> None:
    """Both models hold the same, bit for bit."""
    assert (one.version, one.sequence, one.offset, one.manifest) == (
        other.version,
        other.sequence,
        other.offset,
        other.manifest,
    )
    assert one.catalogue.base.ids == other.catalogue.base.ids
    for name in ("rows", "vectors", "counts", "count_at"):
        assert getattr(one.catalogue.base, name).tobytes() == getattr(other.catalogue.base, name).tobytes()
    assert one.tensors.keys() == other.tensors.keys()
    assert all(one.tensors[name].tobytes() == other.tensors[name].tobytes() for name in one.tensors)


@pytest.mark.parametrize(("items", "exact_max_items"), [(0, 1_000), (50, 1_000), (600, 100)])
def test_read_back_as_written(tmp_path: Path, items: int, exact_max_items: int) -> None:
    """What is read is what was written, exact or IVF, the empty first version too."""
    wanted = built(new_world(items=items), exact_max_items)
    found = index_files.read(index_files.write(tmp_path, "live", wanted), "live")
    same(found, wanted)
    assert found.catalogue.index.exact == (items <= exact_max_items)
    query = np.full(8, 8**-0.5, np.float32)
    if not found.catalogue.index.exact:
        one, other = (m.catalogue.index.shortlist(query, 20) for m in (found, wanted))
        assert one is not None
        assert other is not None
        assert one.tolist() == other.tolist()


def test_newest_is_found_and_others_are_forgotten(tmp_path: Path) -> None:
    """The newest version and sequence is loaded; versions not kept and old sequences are removed."""
    world = new_world()
    for sequence in (0, 9, 10, 11):
        world.sequence = sequence
        index_files.write(tmp_path, "live", built(world))
    index_files.write(tmp_path, "live", built(world.next_version()))
    found, refused = index_files.newest(tmp_path, "live")
    assert found is not None
    assert (found.version, found.sequence, refused) == (2, 0, [])
    one, _ = index_files.newest(tmp_path, "live", 1)
    assert one is not None
    assert (one.version, one.sequence) == (1, 11)
    index_files.forget(tmp_path, {1})
    assert index_files.written(tmp_path) == [(1, 11), (1, 10)]


@pytest.mark.parametrize("name", ["rows.npy", "vectors.npy", "ids.msgpack", "tensor-0.npy", "ivf.faiss"])
@pytest.mark.parametrize("harm", ["cut", "flip", "gone"])
def test_damaged_files_are_never_loaded(tmp_path: Path, name: str, harm: str) -> None:
    """A file cut short, with a flipped bit or missing is refused by name, and the directory before it is used."""
    world = new_world(items=600)
    index_files.write(tmp_path, "live", built(world, 100))
    world.sequence = 5
    path = index_files.write(tmp_path, "live", built(world, 100)) / name
    whole = path.read_bytes()
    if harm == "gone":
        path.unlink()
    else:
        middle = len(whole) // 2
        flipped = bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
        path.write_bytes(whole[:middle] + (flipped if harm == "flip" else b""))
    with pytest.raises(DataLossError, match=name):
        index_files.read(path.parent, "live")
    found, refused = index_files.newest(tmp_path, "live")
    assert found is not None
    assert found.sequence == 0
    assert len(refused) == 1


def test_half_written_directory_is_never_loaded(tmp_path: Path) -> None:
    """A build that was cut off lies under another name, is not seen, and is cleared away."""
    whole = index_files.write(tmp_path, "live", built(new_world()))
    shutil.copytree(whole, whole.parent / ".2-0.4711")
    (whole.parent / "3-0").mkdir()
    found, refused = index_files.newest(tmp_path, "live")
    assert found is not None
    assert found.version == 1
    assert "3-0" in refused[0]
    index_files.clear_interrupted(tmp_path)
    assert not (whole.parent / ".2-0.4711").exists()


def test_other_namespace_is_refused(tmp_path: Path) -> None:
    """Index files of one namespace are not loaded for another."""
    path = index_files.write(tmp_path, "backfill", built(new_world()))
    with pytest.raises(DataLossError, match="namespace backfill"):
        index_files.read(path, "live")


def test_no_room_leaves_nothing_behind(tmp_path: Path) -> None:
    """A write that fails half-way leaves neither a directory of that name nor rubbish."""
    wanted = built(new_world(items=2_000))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(OSError, match=r"File too large|requested and"):
            index_files.write(tmp_path, "live", wanted)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list((tmp_path / "index").iterdir()) == []
