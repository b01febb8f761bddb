"""How features become tokens: the one encoding that the trainer's tables and the server's tower share.

A token is the pair (name, value text), so that no delimiter can collide. Numbers are put into buckets of a signed
logarithm, four to a factor of e: an id-like number belongs in a string.
"""

import math
from collections.abc import Mapping
from typing import Any

Token = tuple[str, str]
BUCKETS_PER_E = 4


def bucket(value: float) -> str:
    """Text of a number's bucket: sign and quarter of its natural logarithm; exact for 0 to 16."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 16:  # noqa: PLR2004
        return f"#{value}"
    if value == int(value) and 0 <= value <= 16:  # noqa: PLR2004
        return f"#{int(value)}"
    side = "-" if value < 0 else "+"
    return f"#{side}{int(math.log1p(abs(value)) * BUCKETS_PER_E)}"


def text_of(value: str | bool | float) -> str:
    """Value text of one scalar: strings as they are behind '=', so that "3" and 3 stay apart."""
    if isinstance(value, str):
        return f"={value}"
    if isinstance(value, bool):
        return "#true" if value else "#false"
    return bucket(value)


def tokens(features: Mapping[str, Any]) -> dict[str, list[Token]]:
    """Tokens of each feature, by feature name; a list gives one token per distinct value.

    {"tag": ["39", "2"], "duration_ms": 87433} -> {"tag": [("tag", "=39"), ("tag", "=2")], "duration_ms": [...]}
    """
    found: dict[str, list[Token]] = {}
    for name, value in features.items():
        values = value if isinstance(value, list) else [value]
        distinct = dict.fromkeys(text_of(v) for v in values)
        if distinct:
            found[name] = [(name, text) for text in distinct]
    return found
