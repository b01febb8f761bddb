"""produce, tail, audit: events in, records out, and whether they agree."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from contract.errors import BadInputError
from headrace import options, show
from headrace.bars import bar

if TYPE_CHECKING:
    from contract.settings import Settings

RawTopic = Annotated[str, typer.Argument(help="exposures, clicks, items, users or ranking-drops")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (produce, tail, audit):
        app.command()(command)


def produce(
    topic: Annotated[str | None, typer.Argument(help="a raw topic; none with --dir", show_default=False)] = None,
    file: Annotated[
        Path | None,
        typer.Argument(help="JSON lines, plain or gzipped; - or nothing: standard input", show_default=False),
    ] = None,
    directory: Annotated[
        Path | None,
        typer.Option("--dir", help="a directory of events, replayed in event order", show_default=False),
    ] = None,
    speed: Annotated[float, typer.Option(min=0, help="with --dir: event seconds in one second; 0: as they come")] = 0,
    rate: Annotated[float, typer.Option(min=0, help="records a second; 0: as they come")] = 0,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="go on after a bad line, and count it")] = False,
    delete: Annotated[
        list[str] | None, typer.Option("--delete", metavar="ID", help="delete an item or user", show_default=False)
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            "--resume", metavar="NAME", help="with --dir: go on with the replay of this name", show_default=False
        ),
    ] = None,
    bootstrap_server: options.Bootstrap = None,
    set_: options.Sets = None,
    as_json: options.AsJson = False,
) -> None:
    """Write events to a raw topic, checked line by line; or replay a directory; or delete items and users."""
    lines = {"--rate": rate, "--skip-bad": skip_bad}
    if directory is not None:
        options.leave_out("--dir names its topics itself", {"TOPIC": topic, "--delete": delete})
        options.leave_out("--dir replays whole files, at --speed", lines)
    else:
        options.leave_out("these go with --dir", {"--speed": speed, "--resume": resume})
    if delete:
        options.leave_out("--delete names the ids itself", {"FILE": file, **lines})
    settings = options.settings(bootstrap_server, None, None, set_, needs=["kafka"])
    from streams import produce as producing  # noqa: PLC0415  (librdkafka: `--help` does without; likewise below)

    if directory is not None:
        with bar("replaying") as (progress, _):
            sent = producing.replay_directory(settings, directory, speed, progress, resume)
        _say_sent(sent, 0, as_json)
    elif topic is None:
        raise BadInputError("a topic is wanted, or --dir DIRECTORY")
    elif delete:
        _say_sent({topic: producing.delete(settings, topic, delete)}, 0, as_json)
    else:
        _say_sent(*_lines(settings, topic, file, rate=rate, skip_bad=skip_bad), as_json)


def _lines(
    settings: "Settings", topic: str, file: Path | None, *, rate: float, skip_bad: bool
) -> tuple[dict[str, int], int]:
    from streams import produce as producing  # noqa: PLC0415

    more: dict[str, Any] = {"rate": rate, "skip_bad": skip_bad}
    with bar(f"writing {topic}") as (progress, complain):
        more |= {"progress": lambda done: progress(done, 0), "complain": complain}
        if file is None or str(file) == "-":
            found = producing.produce_lines(settings, topic, sys.stdin.buffer, "standard input", **more)
        else:
            found = producing.produce_file(settings, topic, file, **more)
    return {topic: found.sent}, found.bad


def _say_sent(sent: dict[str, int], bad: int, as_json: bool) -> None:
    if show.wants_json(as_json):
        show.print_json({"sent": sent, "bad": bad})
        return
    text = ", ".join(f"{count:,} to {topic}" for topic, count in sent.items())
    show.out().print(f"sent {text}" + (f"; {bad:,} bad lines skipped" if bad else ""))


def tail(
    topic: Annotated[str, typer.Argument(help="any topic of `headrace topics`")],
    count: Annotated[
        int | None, typer.Option("-n", min=0, help="how many records; 10, or all with --from-start", show_default=False)
    ] = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="then wait for new ones, until Ctrl-C")] = False,
    from_start: Annotated[bool, typer.Option("--from-start", help="the oldest instead of the newest")] = False,
    partition: Annotated[int | None, typer.Option(min=0, help="of this partition only", show_default=False)] = None,
    bootstrap_server: options.Bootstrap = None,
    namespace: options.Namespace = None,
    set_: options.Sets = None,
    as_json: options.AsJson = False,
) -> None:
    """Records of a topic, decoded: one JSON document a line."""
    settings = options.settings(bootstrap_server, None, namespace, set_, needs=["kafka"])
    import msgspec  # noqa: PLC0415

    from headrace.tail import tail as records  # noqa: PLC0415

    one_line = show.wants_json(as_json)
    wanted = count if count is not None or from_start else 10
    for record in records(settings, topic, count=wanted, follow=follow, from_start=from_start, partition=partition):
        if one_line:
            sys.stdout.write(msgspec.json.encode(record).decode() + "\n")
        else:
            show.out().print(_readable(record), soft_wrap=True)
        if follow:
            sys.stdout.flush()


def _readable(record: Any) -> Any:
    """Where a record is, its key, and its value as JSON; the headers where they give a reason."""
    import msgspec  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    headers = f" {msgspec.json.encode(record.headers).decode()}" if record.headers else ""
    value = "deleted" if record.value is None else msgspec.json.encode(record.value).decode()
    return Text.assemble((f"{record.partition}/{record.offset} {record.key or ''} ", "dim"), value, (headers, "dim"))


def audit(
    bootstrap_server: options.Bootstrap = None,
    redis_url: options.RedisUrl = None,
    namespace: options.Namespace = None,
    set_: options.Sets = None,
    as_json: options.AsJson = False,
) -> None:
    """Whether everything derived agrees with the raw events; exit 1 if anything differs."""
    settings = options.settings(bootstrap_server, redis_url, namespace, set_)
    from headrace import audit as auditing  # noqa: PLC0415

    with bar("reading") as (progress, _):
        checks = auditing.audit(settings, progress)
    if show.wants_json(as_json):
        show.print_json(checks)
    else:
        show.out().print(show.table(auditing.COLUMNS, auditing.rows(checks), right=auditing.COLUMNS[2:]))
    if auditing.differences(checks):
        raise typer.Exit(1)
