"""The flags that commands share, and the settings that come of them."""

import hashlib
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
SERVERS = ("kafka", "redis")  # groups of settings that say how to reach one
SECRETS = ("kafka.sasl_password", "kafka.ssl_key_password")  # and redis.url, where it holds one


def flags(
    bootstrap: str | None = None,
    redis_url: str | None = None,
    namespace: str | None = None,
    sets: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Give dotted names and values of what was given; BadInputError for a --set that is not name=value."""
    given: dict[str, Any] = {}
    for text in sets or ():
        name, value = pair("--set", text, "join.window_ms=60000")
        given[name] = _list(name, value) if value.startswith("[") and not _may_be_secret(name) else value
    named = {"kafka.bootstrap_servers": bootstrap, "redis.url": redis_url, "namespace": namespace}
    return given | {name: value for name, value in named.items() if value is not None}


def pair(flag: str, text: str, example: str) -> tuple[str, str]:
    """Name and value of a flag's NAME=VALUE; BadInputError with an example if it is none."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        came = "a URL" if "://" in text else repr(text)  # it may hold a password
        raise BadInputError(f"{flag} wants name=value, such as {example}, got {came}")
    return name, value


def leave_out(because: str, given: Mapping[str, object]) -> None:
    """BadInputError naming the flags that were given and would do nothing here."""
    if named := [flag for flag, value in given.items() if value not in (None, False, 0, [])]:
        raise BadInputError(f"{because}: leave {' and '.join(named)} out")


def _may_be_secret(name: str) -> bool:
    return name.partition(".")[0] in SERVERS  # a misspelt password is one, too


def _list(name: str, value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        raise BadInputError(f"--set {name} wants a JSON list such as [0.6,0.9], got {value!r}") from None


def home(given: Mapping[str, Any]) -> Path:
    """Data directory, known before the settings are: the local stack's record lies in it."""
    return Path(given.get("data_dir") or os.environ.get("HEADRACE_DATA_DIR") or ".headrace").absolute()


def variable(name: str) -> str:
    """Environment variable of a setting."""
    return f"HEADRACE_{name.upper().replace('.', '__')}"


def is_given(given: Mapping[str, Any], name: str) -> bool:
    """Whether a setting was named by a flag or by the environment."""
    return name in given or variable(name) in os.environ


def settings(
    bootstrap: str | None = None,
    redis_url: str | None = None,
    namespace: str | None = None,
    sets: Sequence[str] | None = None,
    *,
    needs: Sequence[str] = SERVERS,
) -> "Settings":
    """Defaults < what `headrace up` recorded < environment < flags. Raises SettingsError, BadInputError.

    `needs` names the servers that the command asks itself; how to reach the others does not matter to it.
    """
    given = flags(bootstrap, redis_url, namespace, sets)
    return load_at(home(given), given, needs)


def load_at(directory: Path, given: Mapping[str, Any], needs: Sequence[str] = SERVERS) -> "Settings":
    """Settings on top of the record in a data directory.

    BadInputError where the stack was started with a secret that is needed and not given: it is not written down.
    """
    from contract.settings import load  # noqa: PLC0415  (pydantic is slow to import, --help is not to wait for it)
    from headrace import stack  # noqa: PLC0415

    record = stack.read_record(directory)
    if record is None:
        return load({**given, "data_dir": directory})
    others = [group for group in SERVERS if group not in needs]
    _refuse_missing(directory, [n for n in record.secrets if n.partition(".")[0] in needs and not is_given(given, n)])
    recorded = {name: text for name, text in record.settings.items() if name.partition(".")[0] not in others}
    return load({**given, "data_dir": directory}, recorded)


def _refuse_missing(directory: Path, secrets: Sequence[str]) -> None:
    if secrets:
        ways = [f"{'--redis-url' if s == 'redis.url' else f'--set {s}=...'} or {variable(s)}" for s in secrets]
        raise BadInputError(
            f"the stack of {directory} was started with a secret in {', '.join(secrets)}, which is not written down: "
            f"give {'; '.join(ways)}"
        )


def namespace_name(name: str) -> str:
    """Give the name back if a namespace can have it; raises SettingsError."""
    from contract.settings import load  # noqa: PLC0415  (as above)

    return load({"namespace": name}).namespace


def differences(chosen: "Settings") -> dict[str, str]:
    """Every setting that is not at its default, by dotted name, but for secrets: these are never written to a file."""
    return {name: text for name, text in _changed(chosen).items() if not _is_secret(name, text)}


def digests(chosen: "Settings", salt: str) -> dict[str, str]:
    """What is written down of every secret instead: enough to know it again, and dear to guess (scrypt, RFC 7914)."""
    return {
        name: hashlib.scrypt(os.fsencode(text), salt=salt.encode(), n=2**14, r=8, p=1, dklen=32).hex()
        for name, text in _changed(chosen).items()
        if _is_secret(name, text)
    }


def _changed(chosen: "Settings") -> dict[str, str]:
    from contract.settings import Settings, environment_of  # noqa: PLC0415  (as above)

    defaults = environment_of(Settings.model_construct())
    return {
        name.removeprefix("HEADRACE_").lower().replace("__", "."): text
        for name, text in environment_of(chosen).items()
        if defaults.get(name) != text
    }


def _is_secret(name: str, text: str) -> bool:
    from contract.redis_url import masked  # noqa: PLC0415  (as above)

    return name in SECRETS or (name == "redis.url" and masked(text) != text)
