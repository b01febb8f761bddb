"""recall, similar: ask the recall server."""

from typing import Annotated, Any
from urllib.parse import quote, urlencode

import typer

from contract.errors import BadInputError, UnreachableError
from headrace import options, ports, show

K = Annotated[int, typer.Option("-k", min=1, help="how many candidates")]
PATIENCE_S = 5.0
CLIENT_ERRORS = range(400, 500)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (recall, similar):
        app.command()(command)


def recall(
    user: Annotated[str, typer.Argument(help="user id; an unknown one gets what is popular")],
    k: K = 10,
    context: Annotated[
        list[str] | None,
        typer.Option("--context", metavar="NAME=VALUE", help="of the request, as often as wanted", show_default=False),
    ] = None,
    exclude_seen: Annotated[
        str, typer.Option(metavar="WHICH", help="clicked, shown (clicked too) or none")
    ] = "clicked",
    set_: options.Sets = None,
    as_json: options.AsJson = False,
) -> None:
    """Candidates for a user, with scores, version and freshness."""
    query: dict[str, Any] = {"k": k, "exclude_seen": exclude_seen}
    _print(_ask(f"/recall/{quote(user, safe='')}", query | _context(context or []), set_), as_json)


def similar(
    item: Annotated[str, typer.Argument(help="item id")],
    k: K = 10,
    set_: options.Sets = None,
    as_json: options.AsJson = False,
) -> None:
    """Items whose vectors lie next to an item's."""
    _print(_ask(f"/similar/{quote(item, safe='')}", {"k": k}, set_), as_json)


def _context(pairs: list[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for text in pairs:
        name, value = options.pair("--context", text, "device=phone")
        found.setdefault(f"context.{name}", []).append(value)
    return found


def _ask(path: str, query: dict[str, Any], set_: list[str] | None) -> dict[str, Any]:
    from urllib.error import HTTPError  # noqa: PLC0415  (`--help` does not wait for it; likewise below)

    import msgspec  # noqa: PLC0415

    server = options.settings(sets=set_, needs=()).server
    try:
        with ports.page(server.host, server.port, f"{path}?{urlencode(query, doseq=True)}", PATIENCE_S) as answer:
            return msgspec.json.decode(answer.read(), type=dict[str, Any])
    except HTTPError as error:
        if error.code in CLIENT_ERRORS:
            raise BadInputError(f"the recall server refused: {_reason(error.read())}") from None
        raise UnreachableError(f"the recall server answered {error.code}: {_reason(error.read())}") from None
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        reason = getattr(error, "reason", error)
        raise UnreachableError(
            f"the recall server at {ports.asked(server.host)}:{server.port} does not answer ({reason}): "
            "check `headrace status` and --set server.port=..."
        ) from None


def _reason(body: bytes) -> str:
    """What the server gave as {"error": reason}; the body as it is where something else answered."""
    import msgspec  # noqa: PLC0415

    try:
        return str(msgspec.json.decode(body)["error"])
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError):
        return body[:200].decode(errors="replace")


def _print(answer: dict[str, Any], as_json: bool) -> None:
    if show.wants_json(as_json):
        show.print_json(answer)
        return
    rows = [(one["item"], f"{one['score']:.4f}") for one in answer.pop("candidates")]
    console = show.out()
    console.print(show.table(("item", "score"), rows, right=("score",)))
    facts = [f"{name} {_text(value)}" for name, value in answer.items() if value is not None]
    console.print(" · ".join(facts), style="dim", markup=False)


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
