"""recall, similar: ask the recall server."""

from typing import Annotated, Any
from urllib.parse import quote, urlencode

import typer

from contract.errors import BadInputError, UnreachableError
from headrace import options, show

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
        list[str] | None, typer.Option("--context", help="request context, name=value", show_default=False)
    ] = None,
    exclude_seen: Annotated[str | None, typer.Option(help="clicked, shown or none", show_default=False)] = None,
    set_: options.Sets = None,
    as_json: options.AsJson = False,
) -> None:
    """Candidates for a user, with scores, version and freshness."""
    query: dict[str, Any] = {"k": k} | ({"exclude_seen": exclude_seen} if exclude_seen else {})
    _print(_ask(f"/recall/{quote(user, safe='')}", query | _context(context or []), set_), as_json)


def similar(
    item: Annotated[str, typer.Argument(help="item id")],
    k: K = 10,
    set_: options.Sets = None,
    as_json: options.AsJson = False,
) -> None:
    """Items whose vectors lie next to an item's."""
    _print(_ask(f"/similar/{quote(item, safe='')}", {"k": k}, set_), as_json)


def _context(pairs: list[str]) -> dict[str, str]:
    found = {}
    for text in pairs:
        name, equals, value = text.partition("=")
        if not equals:
            raise BadInputError(f"--context wants name=value, such as device=phone, got {text!r}")
        found[name] = value
    return found


def _ask(path: str, query: dict[str, Any], set_: list[str] | None) -> dict[str, Any]:
    from urllib.error import HTTPError  # noqa: PLC0415  (`--help` does not wait for it; likewise below)
    from urllib.request import Request, urlopen  # noqa: PLC0415

    import msgspec  # noqa: PLC0415

    server = options.settings(sets=set_).server
    host = "127.0.0.1" if server.host in {"0.0.0.0", "::"} else server.host  # noqa: S104  (compared, not bound)
    url = f"http://{host}:{server.port}{path}?{urlencode(query)}"
    try:
        with urlopen(Request(url), timeout=PATIENCE_S) as answer:
            return dict(msgspec.json.decode(answer.read()))
    except HTTPError as error:
        body = error.read().decode(errors="replace")
        if error.code in CLIENT_ERRORS:
            raise BadInputError(f"the recall server refused {path}: {_detail(body)}") from None
        raise UnreachableError(f"the recall server answered {error.code} to {path}: {body[:200]}") from None
    except OSError as error:
        raise UnreachableError(
            f"the recall server at {host}:{server.port} does not answer ({error}): check `headrace status`, server.port"
        ) from None


def _detail(body: str) -> str:
    import msgspec  # noqa: PLC0415

    try:
        found = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return body[:200]
    detail = found.get("detail", found) if isinstance(found, dict) else found
    if isinstance(detail, list) and detail and isinstance(detail[0], dict):  # FastAPI's validation errors
        return "; ".join(f"{'.'.join(map(str, one.get('loc', ())))}: {one.get('msg')}" for one in detail)
    return str(detail)


def _print(answer: dict[str, Any], as_json: bool) -> None:
    if show.wants_json(as_json):
        show.print_json(answer)
        return
    lists = {name: value for name, value in answer.items() if isinstance(value, list)}
    console = show.out()
    for rows in lists.values():
        columns = list(rows[0]) if rows and isinstance(rows[0], dict) else []
        cells = [[_cell(row.get(name)) for name in columns] for row in rows if isinstance(row, dict)]
        console.print(show.table(columns, cells, right=columns[1:]))
    facts = [f"{name} {_cell(value)}" for name, value in answer.items() if name not in lists and value is not None]
    console.print(" · ".join(facts), style="dim", markup=False)


def _cell(value: Any) -> Any:
    return f"{value:.4f}" if isinstance(value, float) else value
