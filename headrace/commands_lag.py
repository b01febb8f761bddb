"""lag, topics, schema: where the groups are, and what flows."""

import enum
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from contract.errors import BadInputError
from headrace import options, show

if TYPE_CHECKING:
    from contract.settings import Settings

COLUMNS = ("GROUP", "TOPIC", "PARTITION", "CURRENT-\nOFFSET", "LOG-END-\nOFFSET", "LAG", "SECONDS\nBEHIND", "STATE")
WATCH_S = 2.0


class Raw(enum.StrEnum):
    """The raw topics."""

    exposures = enum.auto()
    clicks = enum.auto()
    items = enum.auto()
    users = enum.auto()
    ranking_drops = "ranking-drops"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (lag, schema, topics):
        app.command()(command)


def lag(
    watch: Annotated[bool, typer.Option("--watch", help="show it anew every two seconds until Ctrl-C")] = False,
    bootstrap_server: options.Bootstrap = None,
    namespace: options.Namespace = None,
    set_: options.Sets = None,
    as_json: options.AsJson = False,
) -> None:
    """How far every consumer group is: records left, seconds behind, state; exit 1 on STOP, STALL or REWIND."""
    settings = options.settings(bootstrap_server, None, namespace, set_, needs=["kafka"])
    from headrace import offsets  # noqa: PLC0415
    from streams.lag import FAILING  # noqa: PLC0415

    if watch:
        _watch(settings, as_json=show.wants_json(as_json))
    rows = offsets.judged(settings)
    if show.wants_json(as_json):
        show.print_json(rows)
    else:
        show.out().print(_table(rows))
    if any(row.state in FAILING for row in rows):
        raise typer.Exit(1)


def _watch(settings: "Settings", *, as_json: bool) -> None:
    """Show the rows anew until Ctrl-C."""
    from rich.live import Live  # noqa: PLC0415

    from headrace import offsets  # noqa: PLC0415
    from streams.lag import Watch  # noqa: PLC0415

    kept = Watch(offsets.watched(settings))

    def rows() -> list[Any]:
        return kept.add(offsets.lag(settings), time.time_ns() // 1_000_000)

    while as_json:
        show.print_json(rows())
        time.sleep(WATCH_S)
    with Live(_table(rows()), console=show.out(), auto_refresh=False) as live:
        while True:
            time.sleep(WATCH_S)
            live.update(_table(rows()), refresh=True)


def _table(rows: list[Any]) -> Any:
    cells = [(r.group, r.topic, r.partition, r.committed, r.end, r.lag, r.behind_s, r.state) for r in rows]
    return show.table(COLUMNS, cells, right=COLUMNS[2:-1], whole=COLUMNS[:2])


def schema(
    topic: Annotated[Raw | None, typer.Argument(help="a raw topic; all of them if left out")] = None,
) -> None:
    """JSON Schema of the messages that you write."""
    from contract.messages import json_schemas  # noqa: PLC0415

    schemas = json_schemas()
    show.print_json(schemas if topic is None else schemas[topic.value])


def topics(
    markdown: Annotated[bool, typer.Option("--markdown", help="the README's table")] = False,
    settings: Annotated[bool, typer.Option("--settings", help="every setting instead: default, bound, help")] = False,
    as_json: options.AsJson = False,
) -> None:
    """List the topics, or with --settings all settings."""
    from headrace import tables  # noqa: PLC0415

    if markdown and as_json:
        raise BadInputError("--markdown and --json exclude each other")
    columns, rows = (
        (tables.SETTING_COLUMNS, tables.settings_rows()) if settings else (tables.COLUMNS, tables.topic_rows())
    )
    if markdown:
        typer.echo(tables.markdown(columns, rows))
    elif show.wants_json(as_json):
        show.print_json([dict(zip(columns, row, strict=True)) for row in rows])
    elif settings:  # the name in the environment follows from the setting's
        show.out().print(show.table([columns[0], *columns[2:]], [[row[0], *row[2:]] for row in rows]))
        show.out().print("in the environment: HEADRACE_, upper case, two underscores for the dot", style="dim")
    else:
        show.out().print(show.table(columns, rows))
