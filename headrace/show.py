"""How commands speak: a table on a terminal, JSON in a pipe, one line on standard error when something is wrong."""

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # `--help` does not wait for them
    from rich.console import Console
    from rich.table import Table

STEP = 1_024.0


def out() -> "Console":
    """Console of standard output."""
    from rich.console import Console  # noqa: PLC0415  (`--help` does not wait for it; likewise below)

    return Console(highlight=False)


def err() -> "Console":
    """Console of standard error."""
    from rich.console import Console  # noqa: PLC0415

    return Console(stderr=True, highlight=False)


def wants_json(asked: bool) -> bool:
    """Whether to print JSON: asked for, or nobody looks at a terminal."""
    return asked or not sys.stdout.isatty()


def print_json(value: Any) -> None:
    """Print one JSON document, indented."""
    import msgspec  # noqa: PLC0415

    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")


def table(
    columns: Sequence[str], rows: Sequence[Sequence[Any]], right: Sequence[str] = (), whole: Sequence[str] = ()
) -> "Table":
    """Table whose `right` columns are aligned to the right; the first and the `whole` ones are never broken."""
    from rich.table import Table  # noqa: PLC0415

    made = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        unbroken = name == columns[0] or name in whole
        made.add_column(name, justify="right" if name in right else "left", overflow="fold", no_wrap=unbroken)
    for row in rows:
        made.add_row(*("-" if cell is None else str(cell) for cell in row))
    return made


def size(count_bytes: float | None) -> str | None:
    """Bytes in the unit that fits."""
    if count_bytes is None:
        return None
    for unit in ("B", "KiB", "MiB"):
        if count_bytes < STEP:
            return f"{count_bytes:.0f} {unit}"
        count_bytes /= STEP
    return f"{count_bytes:.1f} GiB"


def said_once(console: "Console") -> Callable[[str], None]:
    """Printer that does not repeat the line it printed last."""
    last = ""

    def say(line: str) -> None:
        nonlocal last
        if line != last:
            console.print(line, markup=False)
            last = line

    return say
