"""Finished cells of a long benchmark, one JSON line each: a run that was cut goes on where it was."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

Cell = dict[str, Any]
Key = tuple[str, ...]


class ResultsFile:
    """Cells by key; several processes may add to one file."""

    def __init__(self, path: Path, names: Iterable[str]) -> None:
        """`names`: the fields that make a cell's key."""
        self.path, self.names = path, tuple(names)

    def cells(self) -> dict[Key, Cell]:
        """All finished cells; a line that was cut is no cell, of two with one key the later one counts."""
        if not self.path.exists():
            return {}
        found = map(_cell, self.path.read_text(encoding="utf-8").split("\n"))
        return {self.key(cell): cell for cell in found if cell is not None}

    def missing(self, cells: Iterable[Cell]) -> list[Cell]:
        """Those of some cells, without their figures, that are not finished."""
        done = self.cells()
        return [cell for cell in cells if self.key(cell) not in done]

    def key(self, cell: Mapping[str, Any]) -> Key:
        """Key of a cell."""
        return tuple(str(cell[name]) for name in self.names)

    def add(self, cells: Iterable[Cell]) -> None:
        """Append cells in one write, behind a line end of their own should the file end in a cut line."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = "".join(f"{json.dumps(cell)}\n" for cell in cells)
        handle = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            size = os.fstat(handle).st_size
            cut = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
            os.write(handle, (("\n" if cut else "") + text).encode())
        finally:
            os.close(handle)


def _cell(line: str) -> Cell | None:
    try:
        cell: Cell = json.loads(line)
    except json.JSONDecodeError:
        return None
    return cell
