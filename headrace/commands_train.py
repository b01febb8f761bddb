"""train: full updates by hand."""

import sys
from datetime import date
from typing import Annotated, Any

import typer

from contract.errors import BadInputError
from headrace import options, show

train = typer.Typer(help="full updates by hand", rich_markup_mode=None)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(train, name="train")


@train.callback()
def _group() -> None:
    """Full updates by hand."""


@train.command()
def full(
    day: Annotated[
        str | None,
        typer.Option(
            metavar="YYYY-MM-DD",
            help="that day's samples; else all since the last full update",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="train and judge, and publish nothing")] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="wait for the gate's verdict")] = True,
    bootstrap_server: options.Bootstrap = None,
    namespace: options.Namespace = None,
    set_: options.Sets = None,
    as_json: options.AsJson = False,
) -> None:
    """Ask the running trainer for a full update now; the gate judges it as it judges the nightly one.

    The verdict falls on the next gate.min_samples samples. Exit 1 when it is refused.
    """
    wanted = _day(day)
    settings = options.settings(bootstrap_server, None, namespace, set_)
    from headrace import full_by_hand  # noqa: PLC0415  (Kafka's client: `--help` does without)

    request = full_by_hand.ask(settings, wanted, dry_run=dry_run)
    if not wait:
        _say({"request": request}, f"asked for, as {request}: `headrace status` shows the verdict", as_json)
        return
    verdict = full_by_hand.wait(settings, request, show.said_once(show.err()))
    published = verdict["outcome"] == "passed" and not dry_run
    end = "published" if published else "a dry run: nothing is published" if dry_run else "the served version stays"
    _say(verdict, f"{verdict['outcome']}: {verdict['reason']}; {end}", as_json)
    if verdict["outcome"] != "passed":
        raise typer.Exit(1)


def _day(text: str | None) -> date | None:
    try:
        return None if text is None else date.fromisoformat(text)
    except ValueError:
        raise BadInputError(f"--day wants a date such as 2022-04-24, got {text!r}") from None


def _say(found: dict[str, Any], line: str, as_json: bool) -> None:
    if show.wants_json(as_json):
        show.print_json(found)
    else:
        sys.stdout.write(line + "\n")
