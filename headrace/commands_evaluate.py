"""evaluate: what the model, its variants and the baselines would have recalled on your own events."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from contract.errors import BadInputError
from contract.messages import ACTIONS
from headrace import options, settings_file, show, variants

COLUMNS = ("method", "@10", "@50", "@100", "whole @10", "@50", "@100", "seconds")
KS = (10, 50, 100)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(evaluate)


def evaluate(
    directory: Annotated[Path, typer.Argument(help="a directory of exposures, clicks, items, users (interchange)")],
    variant: Annotated[
        list[str] | None,
        typer.Option("--variant", help=f"beside the model, as often as wanted: {', '.join(variants.VARIANTS)}"),
    ] = None,
    model: Annotated[bool, typer.Option("--model/--no-model", help="the model as set")] = True,
    baseline: Annotated[bool, typer.Option("--baselines/--no-baselines", help="popularity, item-item, BPR-MF")] = True,
    seeds: Annotated[int, typer.Option(min=1, max=100, help="seeds per variant; the table shows their mean")] = 1,
    actions: Annotated[
        str, typer.Option(help="actions that the metric counts; the model learns from all, the baselines from these")
    ] = "click",
    half_life: Annotated[
        list[float] | None,
        typer.Option("--half-life", min=1, help="of popularity, in clicks; as often as wanted", show_default=False),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="write a picture of recall over time", show_default=False)
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--settings", help="TOML file of settings, under --set", show_default=False)
    ] = None,
    set_: options.Sets = None,
    as_json: options.AsJson = False,
) -> None:
    """Progressive recall_at_k of the model and of baselines on a directory of events; needs no Kafka."""
    chosen = variants.named((["model"] if model else []) + (variant or []))
    counted = _actions(actions)
    from contract.settings import load  # noqa: PLC0415  (heavy: `--help` does without; likewise below)

    settings = load({**settings_file.read(file), **options.flags(sets=set_)})
    from headrace import evaluate as evaluation  # noqa: PLC0415
    from headrace.positives import positives_of  # noqa: PLC0415
    from headrace.world import read_world  # noqa: PLC0415

    if plot is not None:
        from headrace import plot_recall  # noqa: PLC0415

        plot_recall.check(plot)
    with _progress() as progress:
        progress("reading and joining", 0, 1)
        world = read_world(directory, settings)
        progress("reading and joining", 1, 1)
        positives = positives_of(world.samples, [item.item_id for item in world.items], actions=counted)
        if not len(positives):
            raise BadInputError(f"{directory} gives no positives by {actions}: {_found(world.totals)}")
        rows = [evaluation.model_row(world, positives, settings, one, seeds, progress) for one in chosen]
        if baseline:
            lives = half_life or evaluation.HALF_LIVES
            rows += evaluation.baseline_rows(positives, settings.train.batch, lives, progress)
    if plot is not None:
        plot_recall.plot(plot, directory.name, positives, rows)
    found = {
        "directory": str(directory),
        "mode": "clicks-only" if world.clicks_only else "exposures",
        "actions": list(counted),
        "positives": len(positives),
        "users": positives.users,
        "items": positives.items,
        "join": world.totals,
        "rows": evaluation.report(positives, rows),
    }
    if show.wants_json(as_json):
        show.print_json(found)
    else:
        _print(found)


def _actions(text: str) -> tuple[str, ...]:
    names = tuple(part.strip() for part in text.split(","))
    unknown = [name for name in names if name not in ACTIONS]
    if unknown:
        raise BadInputError(f"--actions wants some of {','.join(ACTIONS)}, got {','.join(unknown)!r}")
    return names


def _found(totals: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in totals.items() if count)


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """Progress bars on a terminal; elsewhere a line on standard error as each part ends."""
    console = show.err()
    if not console.is_terminal:

        def line(what: str, done: int, of: int) -> None:
            if done == of:
                sys.stderr.write(f"{what}: done\n")
                sys.stderr.flush()

        yield line
        return
    from rich.progress import Progress  # noqa: PLC0415

    with Progress(console=console) as bars:
        tasks: dict[str, Any] = {}

        def bar(what: str, done: int, of: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=of)
            bars.update(tasks[what], completed=done, total=of)

        yield bar


def _print(found: dict[str, Any]) -> None:
    console, rows = show.out(), found["rows"]
    cells = [
        (
            row["name"],
            *(row["warm"][f"recall_at_{k}"] for k in KS),
            *(row["whole"][f"recall_at_{k}"] for k in KS),
            row["seconds"],
        )
        for row in rows
    ]
    console.print(
        f"{found['positives']:,} first clicks of {found['users']:,} users on {found['items']:,} items "
        f"({found['mode']}); recall in per cent over the whole catalogue, warm = second half",
        markup=False,
    )
    console.print(show.table(COLUMNS, cells, right=COLUMNS[1:]))
    for row in rows:
        if row.get("gate"):
            _print_gate(row)
    for title, key in (("by the item's age since its first click", "by_age"), ("by its clicks so far", "by_clicks")):
        parts = list(rows[0][key]) if rows else []
        console.print(f"\nwarm recall_at_50 {title}", markup=False)
        cells = [(row["name"], *(row[key][part]["recall_at_50"] for part in parts)) for row in rows]
        cells += [("positives", *(rows[0][key][part]["scored"] for part in parts))] if rows else []
        console.print(show.table(("method", *parts), cells, right=parts))


def _print_gate(row: dict[str, Any]) -> None:
    """How many full updates passed, and why the others did not."""
    refused = [one for one in row["gate"] if one["outcome"] == "refused"]
    console = show.out()
    console.print(f"\n{row['name']}: {row['full_updates']} full updates passed, {len(refused)} refused", markup=False)
    for one in refused:
        console.print(f"  {one['day']}: {one['reason']}", markup=False)
