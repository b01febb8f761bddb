"""The files of a full update under way: whole and checked, like a checkpoint's.

full/00000003/    the third candidate of this namespace
  border/         the trainer's whole state at the day border, features too, and what is to be learned once more
  progress/       how far the child is
  candidate/      what came out
  verdict.json    what the gate said, once it has; a refused candidate is kept
"""

import shutil
from dataclasses import astuple
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch

from contract import crash, log
from contract.errors import DataLossError
from trainer import checkpoint
from trainer.checkpoint import Manifest
from trainer.days import Picks
from trainer.gate import Paired
from trainer.learner import Learner
from trainer.packing import Packed, pack, pack_features, unpack, unpack_features

DIGITS = 8
REFUSED_KEPT = 2


class Border(NamedTuple):
    """What was written at a day border."""

    packed: Packed
    day: Picks
    since: Picks  # learned before the border was seen, and of a later day
    features_at: dict[str, int]  # see Follower.positions
    fits: tuple[Paired, Paired]  # see Days.fits


def directory(root: Path, number: int) -> Path:
    """Directory of one candidate."""
    return root / f"{number:0{DIGITS}d}"


def write_border(
    path: Path,
    learner: Learner,
    day: Picks,
    since: Picks,
    features_at: dict[str, int],
    fits: tuple[Paired, Paired] = (Paired(), Paired()),
) -> None:
    """Write everything that the full update starts from; what an earlier run left of that number goes."""
    shutil.rmtree(path, ignore_errors=True)
    crash.point("full.before_border")
    packed = pack(learner.state)
    picks = {"day": day, "since": since}
    arrays = {f"picks.{name}.{field}": a for name, pick in picks.items() for field, a in pick._asdict().items()}
    tensors = packed.tensors | pack_features(learner.state) | {n: torch.from_numpy(a) for n, a in arrays.items()}
    plain = packed.plain | {"features_at": features_at, "fits": [astuple(fit) for fit in fits]}
    _write(path / "border", Packed(tensors, plain))
    crash.point("full.after_border")


def read_border(path: Path) -> Border:
    """Read it back. Raises DataLossError."""
    packed = read(path / "border")
    if packed is None:
        raise DataLossError(f"{path / 'border'} is gone")
    day, before = (Paired(*fit) for fit in packed.plain.get("fits", ((), ())))
    return Border(packed, _picks(packed, "day"), _picks(packed, "since"), packed.plain["features_at"], (day, before))


def _picks(packed: Packed, name: str) -> Picks:
    return Picks(*(packed.tensors[f"picks.{name}.{field}"].numpy() for field in Picks._fields))


def as_at_border(learner: Learner, border: Border) -> None:
    """Make a new learner what the trainer was at the border."""
    unpack(learner.state, border.packed)
    unpack_features(learner.state, border.packed.tensors)
    learner.state.grow()


def write_progress(path: Path, packed: Packed) -> None:
    """Keep the child's place; the one before stays until this is whole."""
    _write(path / "progress", packed)
    crash.point("full.progress")


def write_candidate(path: Path, packed: Packed) -> None:
    """Keep what came out."""
    crash.point("full.before_candidate")
    _write(path / "candidate", packed)
    crash.point("full.after_candidate")


def read(path: Path) -> Packed | None:
    """Progress or candidate; None where there is none. One that is not whole counts as none, and goes."""
    try:
        loaded = checkpoint.load(path)
    except DataLossError as error:
        log.get().error("full_update_file_refused", reason=str(error))
        shutil.rmtree(path)
        return None
    return loaded[1] if loaded else None


def is_done(path: Path) -> bool:
    """Whether there is a candidate."""
    return any((path / "candidate").glob("[0-9]*"))


def write_verdict(path: Path, facts: dict[str, Any]) -> None:
    """Put the gate's verdict beside the candidate."""
    path.mkdir(parents=True, exist_ok=True)
    temporary = path / ".verdict.json"
    temporary.write_bytes(msgspec.json.encode(facts))
    temporary.replace(path / "verdict.json")


def tidy(root: Path, under_way: int | None) -> None:
    """Remove what no full update needs any more: all but the one under way and the candidates refused last."""
    kept = directory(root, under_way) if under_way else None
    paths = sorted(path for path in root.glob("[0-9]" * DIGITS) if path != kept)
    refused = [p for p in paths if (p / "verdict.json").exists() and _outcome(p) == "refused"]
    for path in paths:
        gone = [path / "border", path / "progress"] if path in refused[-REFUSED_KEPT:] else [path]
        for one in gone:
            shutil.rmtree(one, ignore_errors=True)


def _outcome(path: Path) -> str:
    try:
        return str(msgspec.json.decode((path / "verdict.json").read_bytes())["outcome"])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError):
        return ""


def _write(path: Path, packed: Packed) -> None:
    path.mkdir(parents=True, exist_ok=True)
    checkpoint.save(path, Manifest(epoch=0, version=0, sequence=0, samples=0, offsets={}, shape={}, lanes=[]), packed)
