"""Settings by dotted names: into groups, and what is wrong with one of them in a sentence."""

from collections.abc import Mapping
from typing import Any

from contract.errors import SettingsError


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Settings in groups; SettingsError where a group was given a value, too."""
    found: dict[str, Any] = {}
    for name, value in flat.items():
        *groups, last = name.split(".")
        at = found
        for group in groups:
            at = at.setdefault(group, {})
            if not isinstance(at, dict):
                raise SettingsError(f"{name}: {group} was given a value of its own, too; only one of them can be set")
        if isinstance(at.get(last), dict):
            raise SettingsError(f"{name}: it is a group, and settings within it were given, too; name those alone")
        at[last] = value
    return found


def sentence(error: Any) -> str:
    """What pydantic found wrong with one setting; a secret's value is left out."""
    where = ".".join(map(str, error["loc"]))
    group = where.split(".")[0]
    secret = any(word in where for word in ("password", "url")) or where in {"redis", "kafka"}
    secret |= error["type"] == "extra_forbidden" and group in {"redis", "kafka"}  # a misspelt password
    came = "" if secret or error["type"] == "missing" else f", got {error['input']!r}"
    said = {
        "extra_forbidden": "there is no such setting (`headrace topics --settings` lists them all)",
        "model_type": "this is a group; name a setting within it (`headrace topics --settings` lists them all)",
    }
    return f"{where}: {said.get(error['type'], error['msg'])}{came}"
