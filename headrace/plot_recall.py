"""A picture of recall over time: one line per method."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg  # writes files, needs no screen
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure

from contract.errors import BadInputError
from headrace.evaluate import Row, over_time
from headrace.positives import Positives

K = 50
WINDOWS = 60
SUFFIXES = (".png",)


def check(path: Path) -> None:
    """Refuse a file that could not be written later. Raises BadInputError."""
    if path.suffix.lower() not in SUFFIXES:
        raise BadInputError(f"--plot wants a file that ends in {', '.join(SUFFIXES)}, got {path}")
    if not path.absolute().parent.is_dir():
        raise BadInputError(f"--plot {path}: the directory {path.absolute().parent} does not exist")


def plot(path: Path, title: str, positives: Positives, rows: Sequence[Row]) -> None:
    """Write recall_at_50 of each row in windows of equal numbers of positives, over event time."""
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for row in rows:
        middles_ms, recall = over_time(positives, row.ranks[0], K, WINDOWS)
        moments = [datetime.fromtimestamp(ms / 1000, UTC) for ms in middles_ms.tolist()]
        model = row.kind == "model"
        axes.plot(moments, recall, label=row.name, lw=2 if model else 1, ls="-" if model else "--")  # type: ignore[arg-type]
    locator = AutoDateLocator()  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    axes.set(title=title, ylabel=f"recall_at_{K}, per cent", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=120)
