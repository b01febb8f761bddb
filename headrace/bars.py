"""A progress bar of a command."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from headrace import show


@contextmanager
def bar(what: str) -> Iterator[tuple[Callable[[int, int], object], Callable[[str], object]]]:
    """Progress (done, in all or 0) and complaints, both on standard error; the bar on a terminal only."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn  # noqa: PLC0415

    console = show.err()
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as shown:
        task = shown.add_task(what, total=None)
        yield (
            lambda done, total: shown.update(task, completed=done, total=total or None),
            lambda text: console.print(text, markup=False),
        )
