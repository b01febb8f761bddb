"""The tables and the picture of the freshness benchmark, from its finished cells; a missing cell is a dash."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg  # writes files, needs no screen
from matplotlib.figure import Figure

from benchmarks.bench_freshness_quality import EVERY, NEVER, POPULARITY, PRODUCT, SYNCS
from benchmarks.data_sets import DATA_SETS
from benchmarks.progressive import MODES
from benchmarks.results_file import Cell, Key

Cells = Mapping[Key, Cell]
KS = (10, 50, 100)
STEPS = (EVERY, *SYNCS)
YOUNG = "under 1 h"


def page(cells: Cells) -> str:
    """All tables as Markdown."""
    parts = [
        ("What is served is so old (recall_at_10 / _50)", _by_sync(cells)),
        ("At sync = every batch (recall_at_10 / _50 / _100)", _by_mode(cells)),
        (
            "Globo, articles clicked first less than an hour ago, first click left out (recall_at_10 / _50)",
            _young(cells),
        ),
        ("By the item's age since its first click (recall_at_50)", _by_age(cells)),
        ("Cost", _cost(cells)),
    ]
    return "\n\n".join(f"**{title}**\n\n{body}" for title, body in parts)


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _key(data: str, mode: str, sync: str, stale: str = "all") -> Key:
    return data, mode, sync, "none" if sync == EVERY else stale


def _figures(found: Mapping[str, float | None] | None, ks: Sequence[int]) -> str:
    if not found or found["recall_at_50"] is None:
        return "-"
    return " / ".join(f"{found[f'recall_at_{k}']:.1f}" for k in ks)


def _by_sync(cells: Cells) -> str:
    columns = [(data, "all") for data in DATA_SETS] + [("globo", "tables"), ("globo", "counts")]
    head = ["sync", *(DATA_SETS[d].title + ("" if s == "all" else f", {s} only") for d, s in columns)]
    lines = [
        [sync, *(_figures(cells.get(_key(data, PRODUCT, sync, stale)), KS[:2]) for data, stale in columns)]
        for sync in STEPS
    ]
    lines.append(
        [POPULARITY, *(_figures(cells.get(_key(data, POPULARITY, EVERY)), KS[:2]) for data in DATA_SETS), "", ""]
    )
    return _table(head, lines)


def _by_mode(cells: Cells) -> str:
    lines = [
        [mode, *(_figures(cells.get(_key(data, mode, EVERY)), KS) for data in DATA_SETS)]
        for mode in (*MODES, POPULARITY)
    ]
    return _table(["mode", *(one.title for one in DATA_SETS.values())], lines)


def _young(cells: Cells) -> str:
    asked = [(f"sync {sync}", _key("globo", PRODUCT, sync)) for sync in STEPS]
    asked += [(mode, _key("globo", mode, EVERY)) for mode in (*MODES, POPULARITY) if mode != PRODUCT]
    lines = [[name, _figures(cells[key]["by_age"][YOUNG] if key in cells else None, KS[:2])] for name, key in asked]
    return _table(["served", "recall"], lines)


def _by_age(cells: Cells) -> str:
    ages = list(next(iter(cells.values()))["by_age"]) if cells else []
    lines = []
    for data in DATA_SETS.values():
        for sync in STEPS:
            cell = cells.get(_key(data.name, PRODUCT, sync))
            if cell:
                figures = [_figures(cell["by_age"][age], (50,)) for age in ages]
                lines.append([f"{data.title}, {sync}", *figures])
        if cell := cells.get(_key(data.name, PRODUCT, EVERY)):
            lines.append([f"{data.title}, positives", *(f"{cell['by_age'][age]['scored']:,}" for age in ages)])
    return _table(["data, sync", *ages], lines)


def _cost(cells: Cells) -> str:
    lines = []
    for data in DATA_SETS.values():
        runs = {key[1]: cell for key, cell in cells.items() if key[0] == data.name and "run_cpu_s" in cell}
        for mode, cell in runs.items():
            figures = [f"{cell[name]:,}" for name in ("samples", "warm_up_cpu_s", "run_cpu_s", "cells_of_run")]
            lines.append([f"{data.title}, {mode}", *figures])
    return _table(["run", "samples", "warm-up, CPU s", "scored half, CPU s", "cells"], lines)


def plot(path: Path, cells: Cells) -> None:
    """Write recall_at_50 against the sync interval, a panel per data set that was run."""
    shown = [data for data in DATA_SETS.values() if _key(data.name, PRODUCT, EVERY) in cells]
    figure = Figure(figsize=(1 + 4 * max(len(shown), 1), 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, max(len(shown), 1), squeeze=False)[0]
    for axes, data in zip(panels, shown, strict=False):
        for stale, label in (("all", "all of it that old"), ("tables", "tables only"), ("counts", "counts only")):
            points = [(n, cells.get(_key(data.name, PRODUCT, sync, stale))) for n, sync in enumerate(STEPS)]
            drawn = [(n, cell["recall_at_50"]) for n, cell in points if cell]
            if len(drawn) > 1:
                axes.plot(*zip(*drawn, strict=True), marker="o", lw=2 if stale == "all" else 1, label=label)
        for mode, style in ((POPULARITY, ":"), ("nightly only", "--")):
            if cell := cells.get(_key(data.name, mode, EVERY)):
                name = f"{mode}, every batch" if mode != POPULARITY else "popularity, up to date"
                axes.axhline(cell["recall_at_50"], color="grey", lw=1, ls=style, label=name)
        axes.margins(y=0.08)
        axes.set_title(data.title)
        axes.set_ylim(bottom=0)
        axes.set_xticks(range(len(STEPS)), [*STEPS[:-1], NEVER], rotation=45, ha="right")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("recall_at_50, per cent")
    panels[-1].legend(fontsize="small")
    figure.suptitle("What is served is so old: sync interval in event time")
    figure.savefig(path, dpi=110)
