"""produce, tail, replay, audit: events in, records out, and whether they agree."""

import typer


def register(app: typer.Typer) -> None:
    """Add the commands."""
