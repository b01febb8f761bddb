"""The three public data sets that benchmarks of quality run on, from a directory that you name."""

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from contract.errors import BadInputError
from contract.settings import Settings, load
from headrace import settings_file
from headrace.world import World, read_world

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "benchmarks" / "configs"


@dataclass(frozen=True)
class DataSet:
    """Where a data set lies, how it becomes events, and how popularity is counted beside it."""

    name: str
    title: str
    folder: str  # within the directory that is named
    converter: str
    half_life: float  # of popularity, in clicks


DATA_SETS = {
    one.name: one
    for one in (
        DataSet("kuairand", "KuaiRand", "kuairand-pure", "convert_kuairand.py", 2_000),
        DataSet("ml-1m", "ML-1M", "ml-1m", "convert_ml1m.py", 20_000),
        DataSet("globo", "Globo", "globo-news", "convert_globo.py", 1_000),
    )
}


def settings_of(data: DataSet, changed: Mapping[str, Any] | None = None) -> Settings:
    """Settings of benchmarks/configs/<name>.toml where there is one, else as shipped; one torch thread."""
    file = CONFIGS / f"{data.name}.toml"
    return load({**settings_file.read(file if file.exists() else None), "train.threads": 1, **(changed or {})})


def shipped(changed: Mapping[str, Any] | None = None) -> Settings:
    """Shipped settings, whatever the data; one torch thread."""
    return load({"train.threads": 1, **(changed or {})})


def read(data: DataSet, source: Path, work: Path, settings: Settings, samples: int) -> World:
    """Convert a data set into `work` unless it is there, read and join it; the first `samples` of it, 0 for all."""
    if not (source / data.folder).is_dir():
        raise BadInputError(f"{source} has no directory {data.folder}, which {data.title} wants")
    target = work / data.name
    if not (target / "done").exists():
        target.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, str(ROOT / "examples" / data.converter), str(source / data.folder), str(target)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
        (target / "done").touch()
    world = read_world(target, settings)
    if not samples:
        return world
    return replace(world, samples=world.samples[:samples], passed_ms=world.passed_ms[:samples])
