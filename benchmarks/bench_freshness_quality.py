"""What freshness is worth: recall_at_k against how long ago the served model was synchronised, in event time.

`python -m benchmarks.bench_freshness_quality DATA` with DATA a directory that holds kuairand-pure, ml-1m and globo-news
(--only NAME for one of them). Finished cells are lines of --results; started again, it goes on. Then

    ... --page            prints the tables for benchmarks/README.md
    ... --plot FILE.png   draws recall_at_50 against the sync interval

Every cell: the first half of the positives is learned as the product does (IDs online, nightly full updates); the
second half is scored, each click before it is learned, while mode and staleness are the cell's.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.data_sets import DATA_SETS, DataSet, read, settings_of
from benchmarks.progress import Progress, in_processes
from benchmarks.progressive import MODES, Course, Mode
from benchmarks.results_file import Cell, ResultsFile
from benchmarks.served import NEVER_MS, PARTS, View
from headrace import baselines
from headrace.evaluate import NOT_SCORED, Row, report
from headrace.positives import I64, Positives, positives_of

MINUTE_MS, HOUR_MS = 60_000, 3_600_000
RESULTS = Path("benchmarks/results/freshness_quality.jsonl")
KEY = ("data", "mode", "sync", "stale")
EVERY, NEVER = "every batch", "never"
SYNCS = {"10 min": 10 * MINUTE_MS, "1 h": HOUR_MS, "5 h": 5 * HOUR_MS, "1 day": 24 * HOUR_MS, NEVER: NEVER_MS}
SEED = 1


PRODUCT = "IDs + nightly"
POPULARITY = "popularity"
STALE = {"all": PARTS, "tables": frozenset(("tables",)), "counts": frozenset(("counts",))}


def cells_of(data: DataSet) -> list[Cell]:
    """All cells of a data set, without their figures."""
    cells = [{"mode": mode, "sync": EVERY, "stale": "none"} for mode in (*MODES, POPULARITY)]
    kinds = ("all", "tables", "counts") if data.name == "globo" else ("all",)
    cells += [{"mode": PRODUCT, "sync": sync, "stale": stale} for stale in kinds for sync in SYNCS]
    return [{"data": data.name, **cell} for cell in cells]


def run(data: DataSet, source: Path, work: Path, results: Path, samples: int) -> None:
    """Compute what is missing of one data set, mode by mode."""
    torch.set_num_threads(1)
    file = ResultsFile(results, KEY)
    missing = file.missing(cells_of(data))
    if not missing:
        return
    say = Progress(data.name)
    settings = settings_of(data, {"train.seed": SEED})
    world = read(data, source, work, settings, samples)
    positives = positives_of(world.samples, [item.item_id for item in world.items], actions=("click",))
    say("read", 1, 1)
    if popularity := [cell for cell in missing if cell["mode"] == POPULARITY]:
        ranks = baselines.progressive_ranks(
            baselines.Popularity(positives.items, data.half_life), positives, settings.train.batch
        )
        file.add(_finished(popularity, positives, {EVERY: ranks}, {"half_life": data.half_life}))
    middle = int(positives.sample[len(positives) // 2])
    course, begun = Course(world, settings), time.process_time()
    course.go(middle, lambda at: say("warm-up", at, middle))
    warm_up_s = round(time.process_time() - begun, 1)
    for mode in MODES:
        wanted = [cell for cell in missing if cell["mode"] == mode]
        if not wanted:
            continue
        begun = time.process_time()
        branch = course.fork()
        ranks_of = _scored(branch, MODES[mode], wanted, lambda at, mode=mode: say(mode, at, len(world.samples)))
        facts = {
            "full_updates": branch.full_updates - course.full_updates,
            "warm_up_full_updates": course.full_updates,
            "samples": len(world.samples),
            "warm_up_cpu_s": warm_up_s,
            "run_cpu_s": round(time.process_time() - begun, 1),
            "cells_of_run": len(wanted),
        }
        of_positive = {name: ranks[positives.sample] for name, ranks in ranks_of.items()}
        file.add(_finished(wanted, positives, of_positive, facts))
        say(f"{mode}: {len(wanted)} cells, {facts['run_cpu_s']} CPU seconds", 1, 1)


def _scored(course: Course, mode: Mode, cells: list[Cell], progress: Any) -> dict[str, I64]:
    """Ranks [S] by view of what comes after the warm-up."""
    learner, start = course.learner, course.done
    learner.moves, course.nightly = mode.moves, mode.nightly
    now_ms = int(course.passed_ms[start])
    for cell in cells:
        if cell["sync"] != EVERY:
            learner.look(View(_view(cell), SYNCS[cell["sync"]], STALE[cell["stale"]], now_ms, learner))
    course.go(len(course.samples), progress)
    learner.own[:start] = NOT_SCORED
    return {EVERY: learner.own, **learner.by_view}


def _view(cell: Cell) -> str:
    return EVERY if cell["sync"] == EVERY else f"{cell['stale']}, {cell['sync']}"


def _finished(cells: list[Cell], positives: Positives, ranks: dict[str, I64], facts: dict[str, Any]) -> list[Cell]:
    """Cells with their figures, from ranks [P] by view."""
    found = []
    for cell in cells:
        row = report(positives, [Row(cell["mode"], "model", [ranks[_view(cell)]], 0.0, {})])[0]
        found.append(
            {**cell, "seed": SEED, **row["warm"], "by_age": row["by_age"], "by_clicks": row["by_clicks"], **facts}
        )
    return found


def main() -> None:
    """Run what is missing, or show what there is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, nargs="?", metavar="DATA", help="directory of the data sets")
    parser.add_argument("--only", choices=DATA_SETS, action="append", help="data set, as often as wanted")
    parser.add_argument("--results", type=Path, default=RESULTS, help="finished cells, one JSON line each")
    parser.add_argument("--work", type=Path, default=Path(".headrace/benchmarks"), help="where converted events go")
    parser.add_argument("--samples", type=int, default=0, help="only the first so many samples of each; 0: all")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--page", action="store_true", help="print the tables")
    parser.add_argument("--plot", type=Path, help="write the picture, a .png")
    asked = parser.parse_args()
    chosen = [DATA_SETS[name] for name in asked.only or ("globo", "ml-1m", "kuairand")]  # the longest first
    if asked.source:
        tasks = [(data, asked.source, asked.work, asked.results, asked.samples) for data in chosen]
        in_processes(run, tasks, asked.processes)
    cells = ResultsFile(asked.results, KEY).cells()
    if asked.page or asked.plot:
        from benchmarks import freshness_page  # noqa: PLC0415  (matplotlib)

        if asked.plot:
            freshness_page.plot(asked.plot, cells)
        if asked.page:
            print(freshness_page.page(cells))
        return
    wanted = sum(len(cells_of(data)) for data in chosen)
    print(json.dumps({"benchmark": "freshness_quality", "cells": len(cells), "of": wanted}))


if __name__ == "__main__":
    main()
