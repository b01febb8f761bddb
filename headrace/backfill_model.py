"""A replay that starts from a model which another namespace has, instead of from an empty one."""

import shutil
from pathlib import Path

import msgspec

from contract.errors import RefusedError
from contract.settings import Settings

THEIRS = ("full", "watch")  # a full update under way over there, and what is held


def start_from(settings: Settings, source: str, version: int) -> None:
    """Give a namespace the checkpoint of another one's version: weights and counts, and no offsets.

    Does nothing where the namespace has a checkpoint already. Raises RefusedError when that version is not kept.
    """
    import torch  # noqa: PLC0415  (half a gigabyte: only here; likewise below)

    from trainer import checkpoint  # noqa: PLC0415
    from trainer.days import Days  # noqa: PLC0415
    from trainer.merge import Merge  # noqa: PLC0415
    from trainer.packing import Packed  # noqa: PLC0415

    ours = settings.files / "checkpoints"
    if kept_versions(ours):
        return
    theirs = settings.model_copy(update={"namespace": source}).files / "checkpoints"
    path = _newest_of(theirs, version)
    beside = settings.files / ".from-version"
    shutil.rmtree(beside, ignore_errors=True)
    shutil.copytree(path, beside / path.name)
    loaded = checkpoint.load(beside)
    if loaded is None:
        raise RefusedError(f"{path} is gone: another checkpoint has replaced it; try again")
    manifest, packed = loaded
    days = Days(settings.full.time_zone, settings.full.min_samples).state()
    tensors = packed.tensors | {f"days.{name}": torch.from_numpy(array) for name, array in days.items()}
    lanes = Merge(list(range(len(manifest.lanes)))).state()
    fresh = msgspec.structs.replace(manifest, epoch=0, sequence=-1, samples=0, offsets={}, lanes=lanes)
    counted = packed.plain["numbers"] | {"samples": 0, "event_ms": 0, "arrival_ms": 0}  # of this namespace: none yet
    plain = {name: value for name, value in packed.plain.items() if name not in THEIRS} | {"numbers": counted}
    with checkpoint.locked(ours):
        checkpoint.save(ours, fresh, Packed(tensors, plain))
    shutil.rmtree(beside)


def kept_versions(directory: Path) -> dict[int, Path]:
    """Newest checkpoint of each version that a directory keeps."""
    found: dict[int, Path] = {}
    for path in sorted(directory.glob("[0-9]*/manifest.json")):
        found[int(msgspec.json.decode(path.read_bytes())["version"])] = path.parent
    return found


def _newest_of(directory: Path, version: int) -> Path:
    kept = kept_versions(directory)
    if version not in kept:
        which = ", ".join(map(str, sorted(kept))) or "none"
        raise RefusedError(f"no checkpoint of version {version} is in {directory}; there are those of: {which}")
    return kept[version]
