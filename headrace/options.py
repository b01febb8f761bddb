"""The flags that commands share, and the settings that come of them."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from contract.errors import BadInputError

if TYPE_CHECKING:
    from contract.settings import Settings

Bootstrap = Annotated[
    str | None,
    typer.Option("--bootstrap-server", metavar="HOST:PORT", help="Kafka; else the local one", show_default=False),
]
RedisUrl = Annotated[
    str | None,
    typer.Option("--redis-url", metavar="URL", help="redis:// or rediss://; else the local one", show_default=False),
]
Namespace = Annotated[
    str | None,
    typer.Option("--namespace", metavar="NAME", help="name of everything derived; live by default", show_default=False),
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="any setting, as often as wanted", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON even on a terminal")]
SECRETS = ("kafka.sasl_password", "kafka.ssl_key_password")


def flags(
    bootstrap: str | None = None,
    redis_url: str | None = None,
    namespace: str | None = None,
    sets: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Give dotted names and values of what was given; BadInputError for a --set that is not name=value."""
    given: dict[str, Any] = {}
    for text in sets or ():
        name, equals, value = text.partition("=")
        if not equals or not name:
            came = "a URL" if "://" in text else repr(text)  # it may hold a password
            raise BadInputError(f"--set wants name=value, such as join.window_ms=60000, got {came}")
        given[name] = _list(name, value) if value.startswith("[") else value
    named = {"kafka.bootstrap_servers": bootstrap, "redis.url": redis_url, "namespace": namespace}
    return given | {name: value for name, value in named.items() if value is not None}


def _list(name: str, value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        raise BadInputError(f"--set {name} wants a JSON list such as [0.6,0.9], got {value!r}") from None


def home(given: Mapping[str, Any]) -> Path:
    """Data directory, known before the settings are: the local stack's record lies in it."""
    return Path(given.get("data_dir") or os.environ.get("HEADRACE_DATA_DIR") or ".headrace").absolute()


def is_given(given: Mapping[str, Any], name: str) -> bool:
    """Whether a setting was named by a flag or by the environment."""
    return name in given or f"HEADRACE_{name.upper().replace('.', '__')}" in os.environ


def settings(
    bootstrap: str | None = None,
    redis_url: str | None = None,
    namespace: str | None = None,
    sets: Sequence[str] | None = None,
) -> "Settings":
    """Defaults < what `headrace up` recorded < environment < flags. Raises SettingsError, BadInputError."""
    given = flags(bootstrap, redis_url, namespace, sets)
    return load_at(home(given), given)


def load_at(directory: Path, given: Mapping[str, Any]) -> "Settings":
    """Settings on top of the record in a data directory."""
    from contract.settings import load  # noqa: PLC0415  (pydantic is slow to import, --help is not to wait for it)
    from headrace import stack  # noqa: PLC0415

    record = stack.read_record(directory)
    return load({**given, "data_dir": directory}, record.settings if record else {})


def differences(chosen: "Settings") -> dict[str, str]:
    """Every setting that is not at its default, by dotted name, but for secrets: these are never written to a file."""
    from contract.settings import Settings, environment_of, masked  # noqa: PLC0415  (as above)

    defaults = environment_of(Settings.model_construct())
    changed = {
        variable.removeprefix("HEADRACE_").lower().replace("__", "."): text
        for variable, text in environment_of(chosen).items()
        if defaults.get(variable) != text
    }
    url = chosen.redis.url.get_secret_value()
    return {
        name: text
        for name, text in changed.items()
        if name not in SECRETS and not (name == "redis.url" and masked(url) != url)
    }
