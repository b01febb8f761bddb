"""Checkpoints: there whole or not at all, and never trusted unread."""

import resource
from pathlib import Path

import pytest
import torch

from contract.errors import DataLossError, RefusedError
from trainer import checkpoint
from trainer.checkpoint import Manifest
from trainer.packing import Packed


def manifest(samples: int, epoch: int = 1) -> Manifest:
    """A manifest that tells checkpoints apart by `samples`."""
    return Manifest(epoch=epoch, version=1, sequence=0, samples=samples, offsets={"0": samples}, shape={}, lanes=[])


def packed(value: float) -> Packed:
    """Some 40 kB of state."""
    return Packed({"values": torch.full((100, 100), value)}, {"value": value})


def names(directory: Path) -> list[str]:
    return sorted(p.name for p in directory.iterdir())


def test_the_newest_comes_back_and_two_are_kept(tmp_path: Path) -> None:
    """A checkpoint is read back as it was saved; the one before stays, older ones go."""
    for samples in (1, 2, 3):
        checkpoint.save(tmp_path, manifest(samples), packed(samples))
    loaded = checkpoint.load(tmp_path)
    assert loaded is not None
    assert (loaded[0].samples, loaded[1].plain, float(loaded[1].tensors["values"][0, 0])) == (3, {"value": 3}, 3.0)
    assert names(tmp_path) == ["00000002", "00000003"]


@pytest.mark.parametrize("name", ["tensors.safetensors", "plain.msgpack", "manifest.json"])
@pytest.mark.parametrize("harm", ["flipped", "cut", "gone"])
def test_a_spoilt_one_is_passed_over(tmp_path: Path, name: str, harm: str) -> None:
    """Whatever is wrong with the newest, the one before is used, and the next save leaves a whole one on top."""
    for samples in (1, 2):
        last = checkpoint.save(tmp_path, manifest(samples), packed(samples))
    data = bytearray((last / name).read_bytes())
    if harm == "gone":
        (last / name).unlink()
    else:
        data[len(data) // 2] ^= 16
        (last / name).write_bytes(data if harm == "flipped" else data[: len(data) // 2])
    loaded = checkpoint.load(tmp_path)
    assert loaded is not None
    assert loaded[0].samples == 1
    checkpoint.save(tmp_path, manifest(3), packed(3))
    loaded = checkpoint.load(tmp_path)
    assert loaded is not None
    assert loaded[0].samples == 3


def test_any_flipped_digit_of_a_manifest_is_seen(tmp_path: Path) -> None:
    """A manifest that still decodes is not trusted for that: its offsets would lose or double samples."""
    path = checkpoint.save(tmp_path, manifest(15), packed(1)) / "manifest.json"
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'"offsets":{"0":15}', b'"offsets":{"0":14}'))
    assert path.read_bytes() != whole
    with pytest.raises(DataLossError):
        checkpoint.load(tmp_path)


def test_any_flipped_bit_of_a_manifest_is_seen(tmp_path: Path) -> None:
    """Whatever a flipped bit makes of it, no JSON or no UTF-8 among it: it is refused, and the one before is used."""
    checkpoint.save(tmp_path, manifest(15), packed(1))
    path = checkpoint.save(tmp_path, manifest(16), packed(2)) / "manifest.json"
    whole = path.read_bytes()
    for at in range(len(whole)):
        for bit in (1, 16, 128):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :])
            loaded = checkpoint.load(tmp_path)
            assert loaded is not None
            assert loaded[0].samples == 15, path.read_bytes()


def test_none_whole_is_loud(tmp_path: Path) -> None:
    """Where there were checkpoints and none can be read, learning does not silently begin anew."""
    path = checkpoint.save(tmp_path, manifest(1), packed(1))
    (path / "plain.msgpack").write_bytes(b"")
    with pytest.raises(DataLossError, match="restore one from a backup"):
        checkpoint.load(tmp_path)
    assert checkpoint.load(tmp_path / "none") is None


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    """A write that fails is an OSError, the last checkpoint stays the newest, and what was half written is gone.

    Half a checkpoint of a killed trainer is cleared before the next is written: it may be what fills the disk.
    """
    checkpoint.save(tmp_path, manifest(1), packed(1))
    (tmp_path / ".00000002.4711").mkdir()
    (tmp_path / ".00000002.4711" / "tensors.safetensors").write_bytes(b"half")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            checkpoint.save(tmp_path, manifest(2), packed(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert names(tmp_path) == ["00000001"]
    checkpoint.save(tmp_path, manifest(2), packed(2))
    assert names(tmp_path) == ["00000001", "00000002"]


def test_one_trainer(tmp_path: Path) -> None:
    """A second trainer is refused by the lock; one that was replaced is refused by the epoch."""
    with checkpoint.locked(tmp_path), pytest.raises(RefusedError, match="another trainer"), checkpoint.locked(tmp_path):
        pass
    checkpoint.save(tmp_path, manifest(5, epoch=2), packed(5))
    with pytest.raises(RefusedError, match="taken over"):
        checkpoint.save(tmp_path, manifest(4, epoch=1), packed(4))
