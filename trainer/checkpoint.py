"""One atomic checkpoint of everything that learning needs to go on as if it had not stopped.

    checkpoints/
      lock                  held by the trainer that runs
      00000041/             the one before: used if the newest is corrupt
      00000042/
        tensors.safetensors   both models, optimizer state, counts, flags, gathered days
        plain.msgpack         id maps, rng, recall so far, hard negatives
        manifest.json         sha256 of both, Kafka offsets, version and sequence, samples, epoch

Written to a temporary directory, every file and directory synced, then renamed: a checkpoint is there whole or not at
all. No pickle. The epoch rises with every start; one that finds a higher epoch than its own has been replaced.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from contract import crash, log
from contract.errors import DataLossError, RefusedError
from trainer.packing import Packed

KEPT = 2
DIGITS = 8


class Manifest(Struct, frozen=True, kw_only=True):
    """What a checkpoint is; `sha256` by file name, and `check` of the manifest itself, are filled on writing."""

    epoch: int
    version: int
    sequence: int  # last one published of the version; -1: none yet
    samples: int  # learned, up to the offsets
    offsets: dict[str, int]  # by partition of `samples`: the first record not learned
    shape: dict[str, int]  # what the arrays' widths depend on
    lanes: list[list[Any]]  # Merge.state
    sha256: dict[str, str] = {}
    check: str = ""

    def checked(self) -> "Manifest":
        """The manifest with the `check` that it should have."""
        plain = msgspec.structs.replace(self, check="")
        return msgspec.structs.replace(self, check=hashlib.sha256(msgspec.json.encode(plain)).hexdigest())


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the checkpoints of a namespace; RefusedError if another trainer does."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RefusedError(
                f"another trainer holds {directory / 'lock'}: stop it first, or give this one its own --namespace"
            ) from None
        yield


def save(directory: Path, manifest: Manifest, packed: Packed) -> Path:
    """Write the next checkpoint and remove those beyond the last KEPT; gives its directory.

    Raises RefusedError when a newer epoch has written here, OSError when the disk is full; then nothing is left behind.
    """
    _clean(directory)  # what was begun when a trainer was killed may be what fills the disk
    numbers = _numbers(directory)
    if numbers and (last := _manifest(directory / _name(numbers[-1]))) is not None and last.epoch > manifest.epoch:
        raise RefusedError(f"{directory} was taken over by another trainer (epoch {last.epoch} > {manifest.epoch})")
    target = directory / _name(numbers[-1] + 1 if numbers else 1)
    temporary = directory / f".{target.name}.{os.getpid()}"
    temporary.mkdir()
    crash.point("trainer.before_write")
    files = {
        "tensors.safetensors": save_tensors(packed.tensors),
        "plain.msgpack": msgspec.msgpack.encode(packed.plain),
    }
    sums = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    files["manifest.json"] = msgspec.json.encode(msgspec.structs.replace(manifest, sha256=sums).checked())
    try:
        for name, data in files.items():
            with (temporary / name).open("wb") as file:
                file.write(data)
                file.flush()
                crash.point("trainer.before_fsync")
                os.fsync(file.fileno())
        _sync(temporary)
        crash.point("trainer.before_rename")
        temporary.rename(target)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    crash.point("trainer.after_rename")
    _sync(directory)
    _clean(directory)
    return target


def load(directory: Path) -> tuple[Manifest, Packed] | None:
    """Load the newest checkpoint that is whole; None where there is none.

    A corrupt one is named in the log and passed over; DataLossError when there are some and none is whole.
    """
    numbers = _numbers(directory)
    for number in reversed(numbers):
        path = directory / _name(number)
        try:
            return _read(path)
        except DataLossError as error:
            log.get().error("checkpoint_refused", path=str(path), reason=str(error))
    if numbers:
        raise DataLossError(
            f"no checkpoint in {directory} is whole: restore one from a backup, or remove the directory to learn the "
            "samples topic again from its start"
        )
    return None


def _read(path: Path) -> tuple[Manifest, Packed]:
    manifest = _manifest(path)
    if manifest is None:
        raise DataLossError(f"{path / 'manifest.json'} is not what was written")
    data = {}
    for name, wanted in manifest.sha256.items():
        try:
            data[name] = (path / name).read_bytes()
        except OSError as error:
            raise DataLossError(f"{path / name}: {error.strerror}") from None
        if (came := hashlib.sha256(data[name]).hexdigest()) != wanted:
            raise DataLossError(f"{path / name}: sha256 {wanted} was wanted, {came} came")
    try:
        tensors = {name: t.clone() for name, t in load_tensors(data["tensors.safetensors"]).items()}
        return manifest, Packed(tensors, msgspec.msgpack.decode(data["plain.msgpack"]))
    except (SafetensorError, msgspec.DecodeError, UnicodeDecodeError, KeyError) as error:
        raise DataLossError(f"{path}: {error}") from None


def _manifest(path: Path) -> Manifest | None:
    try:
        found = msgspec.json.decode((path / "manifest.json").read_bytes(), type=Manifest)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None
    return found if found == found.checked() else None


def _numbers(directory: Path) -> list[int]:
    return sorted(int(p.name) for p in directory.glob("[0-9]" * DIGITS) if p.is_dir())


def _name(number: int) -> str:
    return f"{number:0{DIGITS}d}"


def _clean(directory: Path) -> None:
    old = [directory / _name(number) for number in _numbers(directory)[:-KEPT]]
    for path in [*old, *directory.glob(f".{'[0-9]' * DIGITS}.*")]:
        shutil.rmtree(path)


def _sync(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
