"""Index files: one directory holds a model at one sequence; it appears whole or not at all.

    <files>/index/3-500/            version 3 at sequence 500
        manifest.json               versions, offset, measured recall_at_k, sha256 of every other file
        ids.msgpack rows.npy vectors.npy counts.npy count_at.npy
        tensor-0.npy ...            towers and feature tables, named in the manifest
        ivf.faiss                   only where the index is approximate

Written under a name that begins with a dot, fsynced, read back and checked, then renamed. Arrays are memory-mapped on
loading, so that servers on one machine share them. Nothing here can run code: npy without pickle, msgpack, JSON.
"""

import contextlib
import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

import faiss
import msgspec
import numpy as np

from contract import crash
from contract.errors import DataLossError
from contract.updates import F32, Manifest
from publisher import index, overlay
from publisher.index import Index, Items
from publisher.model import Model, assembled

FORMAT = 1
KEEP_SEQUENCES = 2
CODE_TOLERANCE = 0.05  # a served recall_at_k may be this much below what was measured when the index was built


class IndexManifest(msgspec.Struct, frozen=True):
    """What stands in manifest.json."""

    format: int
    namespace: str
    version: int
    sequence: int
    offset: int  # where on `updates` the next update is read
    exact: bool
    nprobe: int
    recall_at_k: float  # of the shortlist against exact search
    tensors: list[str]
    sha256: dict[str, str]
    update: Manifest
    check: str = ""  # sha256 of this manifest without it

    def checked(self) -> "IndexManifest":
        """The manifest with the `check` that it should have."""
        plain = msgspec.structs.replace(self, check="")
        return msgspec.structs.replace(self, check=hashlib.sha256(msgspec.json.encode(plain)).hexdigest())


def write(files: Path, namespace: str, model: Model) -> Path:
    """Write a model without overlay as index files; the directory's final name.

    Steps: 1. write beside · 2. fsync · 3. read back, check sums and recall_at_k · 4. rename · 5. fsync the parent.
    OSError (disk full) leaves nothing under a final name.
    """
    home = files / "index"
    final = home / f"{model.version}-{model.sequence}"
    beside = home / f".{final.name}.{os.getpid()}"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        names = _write_arrays(beside, model)  # 1
        found = model.catalogue.index
        manifest = IndexManifest(
            FORMAT,
            namespace,
            model.version,
            model.sequence,
            model.offset,
            found.exact,
            0 if found.exact else found.ivf.nprobe,
            index.recall_at_k(found, model.catalogue.base.vectors),
            sorted(model.tensors),
            {name: _sha256(beside / name) for name in names},
            model.manifest,
        )
        (beside / "manifest.json").write_bytes(msgspec.json.encode(manifest.checked()))
        for name in (*names, "manifest.json"):  # 2
            _sync(beside / name)
        _sync(beside)
        _check_recall(read(beside, namespace), manifest)  # 3
        if final.exists():
            shutil.rmtree(final)
        crash.point("publisher.before_rename")
        beside.rename(final)  # 4
        _sync(home)  # 5
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    return final


def read(directory: Path, namespace: str) -> Model:
    """Load a directory of index files; DataLossError when anything in it is not what was written."""
    try:
        manifest = msgspec.json.decode((directory / "manifest.json").read_bytes(), type=IndexManifest)
        if manifest != manifest.checked():
            raise DataLossError(f"{directory / 'manifest.json'} is not what was written (sha256 differs)")
        if manifest.format != FORMAT or manifest.namespace != namespace:
            raise DataLossError(
                f"{directory} is format {manifest.format} of namespace {manifest.namespace}, "
                f"wanted {FORMAT} of {namespace}"
            )
        for name, wanted in manifest.sha256.items():
            if _sha256(directory / name) != wanted:
                raise DataLossError(f"{directory / name} is not what was written (sha256 differs)")
        return _loaded(directory, manifest)
    except (OSError, ValueError, RuntimeError, KeyError, msgspec.MsgspecError) as error:
        raise DataLossError(f"index files in {directory} cannot be read: {error}") from None


def written(files: Path) -> list[tuple[int, int]]:
    """(version, sequence) of every finished directory, newest first."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        for path in (files / "index").iterdir():
            version, _, sequence = path.name.partition("-")
            if version.isdigit() and sequence.isdigit():
                found.append((int(version), int(sequence)))
    return sorted(found, reverse=True)


def newest(files: Path, namespace: str, version: int | None = None) -> tuple[Model | None, list[str]]:
    """Give the newest model that reads back whole, of any or one version, and a line for each that does not."""
    refused: list[str] = []
    for v, sequence in written(files):
        if version is None or v == version:
            try:
                return read(files / "index" / f"{v}-{sequence}", namespace), refused
            except DataLossError as error:
                refused.append(str(error))
    return None, refused


def forget(files: Path, keep_versions: set[int]) -> None:
    """Remove other versions, all but the newest KEEP_SEQUENCES of each, and what an interrupted build left."""
    kept: dict[int, int] = {}
    for version, sequence in written(files):
        kept[version] = kept.get(version, 0) + 1
        if version not in keep_versions or kept[version] > KEEP_SEQUENCES:
            shutil.rmtree(files / "index" / f"{version}-{sequence}", ignore_errors=True)


def clear_interrupted(files: Path) -> None:
    """Remove what builds that were interrupted left behind; only the one publisher may call it."""
    for path in (files / "index").glob(".*"):
        shutil.rmtree(path, ignore_errors=True)


def _write_arrays(directory: Path, model: Model) -> list[str]:
    items, ivf = model.catalogue.base, model.catalogue.index.ivf
    arrays: dict[str, Any] = {
        "rows.npy": items.rows,
        "vectors.npy": items.vectors,
        "counts.npy": items.counts,
        "count_at.npy": items.count_at,
    }
    arrays |= {f"tensor-{n}.npy": model.tensors[name] for n, name in enumerate(sorted(model.tensors))}
    for name, array in arrays.items():
        np.save(directory / name, array, allow_pickle=False)
    (directory / "ids.msgpack").write_bytes(msgspec.msgpack.encode(items.ids))
    if ivf is not None:
        faiss.write_index(ivf, str(directory / "ivf.faiss"))
    return [*arrays, "ids.msgpack", *(["ivf.faiss"] if ivf is not None else [])]


def _loaded(directory: Path, manifest: IndexManifest) -> Model:
    def array(name: str) -> F32:
        mapped: F32 = np.load(directory / name, mmap_mode="r", allow_pickle=False)
        return mapped.view(np.ndarray)

    ids = msgspec.msgpack.decode((directory / "ids.msgpack").read_bytes(), type=list[str])
    items = Items(ids, array("rows.npy"), array("vectors.npy"), array("counts.npy"), array("count_at.npy"))  # type: ignore[arg-type]
    shapes = {len(ids), len(items.rows), len(items.vectors), len(items.counts), len(items.count_at)}
    if len(shapes) > 1:
        raise DataLossError(f"index files in {directory} disagree about the number of items: {sorted(shapes)}")
    found = Index()
    if not manifest.exact:
        ivf: Any = faiss.read_index(str(directory / "ivf.faiss"), faiss.IO_FLAG_MMAP)
        ivf.nprobe = manifest.nprobe
        found = Index(ivf)
    tensors = {name: array(f"tensor-{n}.npy") for n, name in enumerate(manifest.tensors)}
    catalogue = overlay.based(items, found, manifest.sequence)
    return assembled(manifest.version, manifest.sequence, manifest.offset, manifest.update, tensors, catalogue)


def _check_recall(model: Model, manifest: IndexManifest) -> None:
    found = index.recall_at_k(model.catalogue.index, model.catalogue.base.vectors)
    if found < manifest.recall_at_k - CODE_TOLERANCE:
        raise DataLossError(f"the index read back finds {found:.3f} of the exact nearest, built {manifest.recall_at_k}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
