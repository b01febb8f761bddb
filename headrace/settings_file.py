"""A TOML file of settings: groups are tables, names as in `headrace topics --settings`."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from contract.errors import BadInputError


def read(path: Path | None) -> dict[str, Any]:
    """Give dotted names and values of a file; none for no file. Raises BadInputError when it cannot be read."""
    if path is None:
        return {}
    try:
        return _flat(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise BadInputError(f"cannot read --settings {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInputError(f"--settings {path} is no TOML: {error}") from None


def _flat(tree: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{before}{name}.")
        else:
            found[f"{before}{name}"] = value
    return found
