"""lag, topics, schema: where the groups are, and what flows."""

import enum
import time
from typing import Annotated, Any

import typer

from contract.errors import BadInputError
from headrace import options, show

COLUMNS = ("GROUP", "TOPIC", "PARTITION", "CURRENT-\nOFFSET", "LOG-END-\nOFFSET", "LAG", "SECONDS\nBEHIND")
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
    """How far every consumer group is: records left to read, and seconds behind."""
    settings = options.settings(bootstrap_server, None, namespace, set_)
    from headrace import offsets  # noqa: PLC0415

    if show.wants_json(as_json):
        show.print_json(offsets.lag(settings))
        while watch:
            time.sleep(WATCH_S)
            show.print_json(offsets.lag(settings))
        return
    if not watch:
        show.out().print(_table(offsets.lag(settings)))
        return
    from rich.live import Live  # noqa: PLC0415

    with Live(_table(offsets.lag(settings)), console=show.out(), auto_refresh=False) as live:
        while True:
            time.sleep(WATCH_S)
            live.update(_table(offsets.lag(settings)), refresh=True)


def _table(rows: list[Any]) -> Any:
    cells = [(r.group, r.topic, r.partition, r.committed, r.end, r.lag, r.behind_s) for r in rows]
    return show.table(COLUMNS, cells, right=COLUMNS[2:], whole=COLUMNS[:2])


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
