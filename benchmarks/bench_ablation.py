"""What each ingredient is worth: recall_at_k with one left out at a time, the mean of three seeds.

`python -m benchmarks.bench_ablation DATA` with DATA a directory that holds kuairand-pure, ml-1m and globo-news (--only
NAME for one of them). Finished cells (one data set, one ingredient, one seed) are lines of --results; started again, it
goes on. `--page` prints the table. Shipped defaults, whatever the data. Ways of updating are left out in the scored
half only: see progressive.py.
"""

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import msgspec
import torch

from benchmarks.data_sets import DATA_SETS, DataSet, read, shipped
from benchmarks.progress import Progress, in_processes
from benchmarks.progressive import MODES, Course, Mode
from benchmarks.results_file import Cell, Key, ResultsFile
from headrace.evaluate import NOT_SCORED, Row, report
from headrace.positives import Positives, positives_of
from headrace.world import World

RESULTS = Path("benchmarks/results/ablation.jsonl")
KEY = ("data", "ingredient", "seed")
SEEDS, KS = (1, 2, 3), (10, 50, 100)
SAMPLES = {"kuairand": 0, "ml-1m": 120_000, "globo": 160_000}  # the first so many, so that a table takes an hour


@dataclass(frozen=True)
class Without:
    """What is changed."""

    settings: dict[str, Any] = field(default_factory=dict)
    history: bool = True
    context: bool = True
    user_features: bool = True
    item_features: bool = True
    mode: Mode = MODES["IDs + nightly"]


INGREDIENTS = {
    "all of them": Without(),
    "without prior (log q instead)": Without({"model.correction": "logq"}),
    "without prior and log q": Without({"model.correction": "none"}),
    "without learned half-lives (one of 5,000 clicks)": Without({"model.prior_half_lives": []}),
    "without history": Without(history=False),
    "without user ID": Without({"train.user_rate": 0.0}),
    "without user features": Without(user_features=False),
    "without context": Without(context=False),
    "without item features": Without(item_features=False),
    "without drawn negatives": Without({"train.negatives": 0}),
    "with hot items down-sampled (over 100 clicks)": Without({"train.hot_item_keep_clicks": 100.0}),
    "with self-supervision (alpha 0.1)": Without({"full.self_weight": 0.1}),
    "without nightly (IDs only)": Without(mode=MODES["IDs only"]),
    "without incremental (nightly only)": Without(mode=MODES["nightly only"]),
    "without either (frozen)": Without(mode=MODES["frozen"]),
}


def cells_of(data: DataSet) -> list[Cell]:
    """All cells of a data set, seed by seed, without their figures."""
    return [{"data": data.name, "ingredient": name, "seed": seed} for seed in SEEDS for name in INGREDIENTS]


def run(data: DataSet, source: Path, work: Path, results: Path, samples: int) -> None:
    """Compute what is missing of one data set."""
    torch.set_num_threads(1)
    file = ResultsFile(results, KEY)
    missing = file.missing(cells_of(data))
    if not missing:
        return
    say = Progress(data.name)
    world = read(data, source, work, shipped(), samples)
    positives = positives_of(world.samples, [item.item_id for item in world.items], actions=("click",))
    say("read", 1, 1)
    for cell in missing:
        begun, name = time.process_time(), f"{cell['ingredient']}, seed {cell['seed']}"
        figures = _figures(world, positives, cell, lambda at, n=name: say(n, at, len(world.samples)))
        file.add([{**cell, **figures}])
        say(f"{name}: {time.process_time() - begun:.0f} CPU seconds", 1, 1)


def _figures(world: World, positives: Positives, cell: Cell, progress: Any) -> dict[str, Any]:
    begun, without = time.process_time(), INGREDIENTS[cell["ingredient"]]
    settings = shipped({**without.settings, "train.seed": cell["seed"]})
    course, middle = Course(_stripped(world, without), settings), int(positives.sample[len(positives) // 2])
    course.go(middle, progress)
    course.learner.moves, course.nightly = without.mode.moves, without.mode.nightly
    course.go(len(world.samples), progress)
    ranks = course.learner.own
    ranks[:middle] = NOT_SCORED
    row = report(positives, [Row("", "model", [ranks[positives.sample]], 0.0, {})])[0]
    return {**row["warm"], "samples": len(world.samples), "cpu_s": round(time.process_time() - begun, 1)}


def _stripped(world: World, without: Without) -> World:
    """The world without what is left out."""
    samples, items = world.samples, world.items
    if not without.history:
        samples = [msgspec.structs.replace(sample, history=[]) for sample in samples]
    if not without.context:
        samples = [msgspec.structs.replace(sample, context={}) for sample in samples]
    if not without.item_features:
        items = [msgspec.structs.replace(item, features={}) for item in items]
    return replace(world, samples=samples, items=items, users=world.users if without.user_features else [])


def page(cells: Mapping[Key, Cell]) -> str:
    """Means over the seeds, recall_at_10 / _50 / _100, and the difference @50 to all ingredients, as Markdown."""
    head = ["", *(data.title for data in DATA_SETS.values())]
    body = [[name, *(_entry(cells, data, name) for data in DATA_SETS)] for name in INGREDIENTS]
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _entry(cells: Mapping[Key, Cell], data: str, name: str) -> str:
    own, whole = (_mean(cells, data, which) for which in (name, next(iter(INGREDIENTS))))
    if own is None:
        return "-"
    text = " / ".join(f"{own[k]:.1f}" for k in KS)
    return text if whole is None or own is whole else f"{text} ({own[50] - whole[50]:+.1f})"


def _mean(cells: Mapping[Key, Cell], data: str, name: str) -> dict[int, float] | None:
    found = [cells[key] for seed in SEEDS if (key := (data, name, str(seed))) in cells]
    return {k: fmean(cell[f"recall_at_{k}"] for cell in found) for k in KS} if found else None


def main() -> None:
    """Run what is missing, or show what there is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, nargs="?", metavar="DATA", help="directory of the data sets")
    parser.add_argument("--only", choices=DATA_SETS, action="append", help="data set, as often as wanted")
    parser.add_argument("--results", type=Path, default=RESULTS, help="finished cells, one JSON line each")
    parser.add_argument("--work", type=Path, default=Path(".headrace/benchmarks"), help="where converted events go")
    parser.add_argument("--samples", type=int, help="only the first so many samples; 0: all", metavar="N")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--page", action="store_true", help="print the table")
    asked = parser.parse_args()
    names = asked.only or list(DATA_SETS)
    if asked.source:
        sizes = {name: SAMPLES[name] if asked.samples is None else asked.samples for name in names}
        in_processes(
            run, [(DATA_SETS[n], asked.source, asked.work, asked.results, sizes[n]) for n in names], asked.processes
        )
    cells = ResultsFile(asked.results, KEY).cells()
    if asked.page:
        print(page(cells))
        return
    wanted = sum(len(cells_of(DATA_SETS[name])) for name in names)
    print(json.dumps({"benchmark": "ablation", "cells": len(cells), "of": wanted}))


if __name__ == "__main__":
    main()
