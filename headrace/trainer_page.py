"""What the trainer of a namespace says of itself, on its page of this machine."""

import json
from typing import Any
from urllib.request import urlopen

from contract.errors import UnreachableError
from contract.settings import Settings
from headrace import ports

TIMEOUT_S = 2.0


def read(settings: Settings) -> dict[str, Any]:
    """Body of its /healthz. Raises UnreachableError when it does not answer, or another namespace's does."""
    address = f"http://{ports.LOOPBACK}:{settings.train.port}/healthz"
    try:
        with urlopen(address, timeout=TIMEOUT_S) as answer:
            found: dict[str, Any] = json.load(answer)
    except (OSError, ValueError):
        raise UnreachableError(
            f"no trainer answers at {address}: start it (`headrace up` or `headrace run trainer`), "
            "or name its --set train.port"
        ) from None
    wanted = settings.names.group("trainer")
    if found.get("group") != wanted:
        raise UnreachableError(f"at {address} answers {found.get('group')}, not {wanted}: name its --set train.port")
    return found


def gate(settings: Settings) -> dict[str, Any]:
    """What status shows of full updates, the gate's last verdict, and why deltas are held, if they are."""
    page = read(settings)
    full, last = page["full"], page["full"]["last"] or {}
    return {
        "phase": full["phase"],
        "paired": full.get("paired"),
        "wanted": full.get("wanted"),
        "outcome": last.get("outcome"),
        "day": last.get("day"),
        "reason": last.get("reason"),
        "deltas_held": page["held"] or None,
    }
