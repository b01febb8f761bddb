"""The tables of topics and of settings that commands print and the README shows."""

from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from contract.redis_url import masked
from contract.settings import Settings, environment_of
from contract.topics import TOPICS

COLUMNS = ("topic", "key", "writer → reader", "what", "kind")
SETTING_COLUMNS = ("setting", "environment", "default", "bound", "what")
ABOUT_KIND = {"raw": "raw, JSON", "derived": "inside, msgpack", "dlq": "dead letters"}
BOUNDS = {"ge": "≥ ", "gt": "> ", "le": "≤ ", "lt": "< ", "min_length": "length ≥ ", "max_length": "length ≤ "}


def topic_rows() -> list[tuple[str, ...]]:
    """One row per topic of contract/topics.py."""
    return [
        (
            f"{topic.name}",
            topic.key,
            f"{topic.writer} → {topic.readers}",
            topic.what,
            ABOUT_KIND[topic.kind] + (", compacted" if topic.compacted else ""),
        )
        for topic in TOPICS
    ]


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """GitHub table; the first column is code."""
    body = [[f"`{first}`", *rest] for first, *rest in rows]
    lines = [list(columns), ["---"] * len(columns), *body]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def settings_rows() -> list[tuple[str, str, str, str, str]]:
    """Dotted name, environment name, default, bound and help of every setting; secrets masked."""
    return list(_rows(Settings, Settings.model_construct(), ""))


def _rows(kind: type[BaseModel], defaults: Any, prefix: str) -> Iterator[tuple[str, str, str, str, str]]:
    texts = environment_of(Settings.model_construct())
    for name, info in kind.model_fields.items():
        dotted = f"{prefix}{name}"
        default = getattr(defaults, name)
        if isinstance(default, BaseModel):
            yield from _rows(type(default), default, f"{dotted}.")
        else:
            variable = f"HEADRACE_{dotted.upper().replace('.', '__')}"
            text = texts.get(variable, "")
            shown = masked(text) if isinstance(default, SecretStr) else text
            yield dotted, variable, shown, bound(info), info.description or ""


def bound(info: FieldInfo) -> str:
    """Bounds of a setting in words; the choices where it has some."""
    kind = info.annotation
    choices = [str(a) for a in getattr(kind, "__args__", ()) if isinstance(a, str)]
    if choices:
        return " | ".join(choices)
    found = [
        f"{word}{getattr(rule, name)}" for rule in info.metadata for name, word in BOUNDS.items() if hasattr(rule, name)
    ]
    return ", ".join(found)
