"""Variants of the model that `headrace evaluate` compares: each leaves one ingredient out, or updates less or more.

Those that stop full updates go their own way from the middle on, where the warm figures begin: a model of which no
tower was ever trained is no model.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from contract.errors import BadInputError

if TYPE_CHECKING:
    from contract.settings import Settings


@dataclass(frozen=True)
class Variant:
    """What differs from the model as set."""

    name: str
    what: str
    settings: Mapping[str, Any] = field(default_factory=dict)  # dotted names
    history: bool = True
    context: bool = True
    user_features: bool = True
    item_features: bool = True
    full_updates: bool = True  # False: from the middle on, and then its settings and `all_online` hold from there, too
    all_online: bool = False


_ALL = (
    Variant("model", "as the settings say"),
    Variant("prior", "popularity counted beside the towers", {"model.correction": "prior"}),
    Variant("logq", "log q in the loss, plain cosine served", {"model.correction": "logq"}),
    Variant("none", "neither prior nor log q", {"model.correction": "none"}),
    Variant("no-history", "no recent clicks", history=False),
    Variant("no-user-id", "user-ID rows stay zero", {"train.user_rate": 0.0}),
    Variant("no-user-features", "profiles unknown", user_features=False),
    Variant("no-item-features", "catalogue's features unknown", item_features=False),
    Variant("no-context", "request context unknown", context=False),
    Variant("no-features", "IDs and history only", context=False, user_features=False, item_features=False),
    Variant("nightly-only", "full updates, ID rows rest in between", {"train.incremental_rate": 0.0}),
    Variant("no-full", "ID rows online, no full update in the second half", full_updates=False),
    Variant(
        "frozen",
        "no update in the second half: counts and histories alone move",
        {"train.incremental_rate": 0.0},
        full_updates=False,
    ),
    Variant(
        "all-online",
        "all parameters online in the second half, no full updates there",
        full_updates=False,
        all_online=True,
    ),
    Variant("no-self-supervision", "item tower without self-supervision", {"full.self_weight": 0.0}),
)
VARIANTS = {variant.name: variant for variant in _ALL}


def named(names: list[str]) -> list[Variant]:
    """Give the variants of these names; BadInputError lists all of them when one is unknown."""
    unknown = [name for name in names if name not in VARIANTS]
    if unknown:
        raise BadInputError(f"no variant {', '.join(unknown)}; there are {', '.join(VARIANTS)}")
    return [VARIANTS[name] for name in dict.fromkeys(names)]


def with_settings(settings: "Settings", changed: Mapping[str, Any]) -> "Settings":
    """Settings with some `group.name` replaced by values of ours, which are not checked again."""
    for name, value in changed.items():
        group, field_name = name.split(".")
        part = getattr(settings, group).model_copy(update={field_name: value})
        settings = settings.model_copy(update={group: part})
    return settings
