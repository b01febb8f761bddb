"""replay, promote, rollback, drop: a second namespace beside the live one, and dead letters once more."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from contract.errors import BadInputError, RefusedError
from contract.messages import MAX_TS_MS
from headrace import options, show
from headrace.bars import bar

if TYPE_CHECKING:
    from contract.settings import Settings
    from headrace.backfill import Estimate
    from streams.course import Plan

Name = Annotated[str, typer.Argument(metavar="NAME", help="the namespace")]
Time = Annotated[
    str | None,
    typer.Option(metavar="T", help="arrival: 2026-11-22T08:00+01:00 (UTC if no zone) or epoch ms", show_default=False),
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (replay, promote, drop):
        app.command()(command)
    app.command(name="rollback")(roll_back)


def replay(
    as_: Annotated[
        str | None, typer.Option("--as", metavar="NAME", help="the new namespace of a backfill", show_default=False)
    ] = None,
    since: Time = None,
    until: Time = None,
    follow: Annotated[bool, typer.Option("--follow", help="then follow the raw topics until Ctrl-C")] = False,
    from_version: Annotated[
        int | None,
        typer.Option(min=1, help="start from the model of this version, not from an empty one", show_default=False),
    ] = None,
    dlq: Annotated[
        str | None,
        typer.Option(
            "--dlq", metavar="TOPIC", help="re-send this raw topic's dead letters, each once", show_default=False
        ),
    ] = None,
    execute: Annotated[bool, typer.Option("--execute", help="do it; without this it only says what it would")] = False,
    bootstrap_server: options.Bootstrap = None,
    redis_url: options.RedisUrl = None,
    namespace: options.Namespace = None,
    set_: options.Sets = None,
    as_json: options.AsJson = False,
) -> None:
    """Replay the raw topics into a second namespace (--as), or re-send dead letters after a fix (--dlq)."""
    span = any(value is not None for value in (since, until, from_version)) or follow
    if dlq is not None and (as_ is not None or span):
        raise BadInputError("--dlq stands alone: it re-sends dead letters, --as replays the raw topics")
    if dlq is None and as_ is None and not span:
        raise BadInputError("--as NAME is wanted, to replay the raw topics into a second namespace, or --dlq TOPIC")
    settings = options.settings(bootstrap_server, redis_url, namespace, set_)
    if dlq is not None:
        _resend(settings, dlq, execute=execute, as_json=as_json)
        return
    if as_ is None or as_ == settings.namespace:
        raise RefusedError(
            f"the groups of {settings.namespace} are not rewound, because events would be applied twice: backfill "
            "into a second namespace beside it (`headrace replay --as NAME`), then `headrace promote NAME`"
        )
    if follow and until is not None:
        raise BadInputError("--follow and --until exclude each other")
    asked = {"since_ms": _time("--since", since), "until_ms": _time("--until", until)}
    joins_anew = any(text.startswith("join.") for text in set_ or ())
    more = {"follow": follow, "from_version": from_version, "repeat_advances": not joins_anew}
    _backfill(settings, as_, asked | more, execute=execute, as_json=as_json)


def _time(flag: str, text: str | None) -> int | None:
    """Epoch ms of a time as it was given."""
    if text is None:
        return None
    try:
        if text.isdecimal():
            at_ms = int(text)
        else:
            found = datetime.fromisoformat(text)
            at_ms = round((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp() * 1000)
    except ValueError:
        at_ms = -1
    if not 0 <= at_ms <= MAX_TS_MS:
        raise BadInputError(f"{flag} wants 2026-11-22T08:00, with or without a zone, or epoch ms, got {text[:40]!r}")
    return at_ms


def _backfill(settings: "Settings", name: str, asked: dict[str, Any], *, execute: bool, as_json: bool) -> None:
    from headrace import backfill as running  # noqa: PLC0415  (`--help` does without; likewise below)
    from streams import backfill as planning  # noqa: PLC0415

    options.namespace_name(name)  # what cannot be one is said before anything is read
    if (since := asked["since_ms"]) is not None and (until := asked["until_ms"]) is not None and since >= until:
        raise BadInputError("--since must be before --until")
    news = running.namespaced(settings, name)
    plan = running.settled(news, planning.make_plan(settings, name, **asked))
    estimate = running.estimate(settings, plan)
    if not execute:
        _print_plan(news, plan, estimate, as_json=as_json)
        return
    with bar(f"replaying into {name}") as (progress, say):
        running.execute(news, plan, say, progress)
    _print_result(settings, news, plan, as_json=as_json)


def _print_plan(news: "Settings", plan: "Plan", estimate: "Estimate", *, as_json: bool) -> None:
    from contract.topics import TOPICS  # noqa: PLC0415
    from headrace.namespaces import GROUPS  # noqa: PLC0415

    ends = plan.stops or plan.ends
    spans = [
        {"topic": news.names.topic(source), "partition": p, "silent_from": plan.needed[source][p], "from": start}
        | {"to": ends[source][p], "events": ends[source][p] - start}
        for source, starts in plan.starts.items()
        for p, start in enumerate(starts)
    ]
    creates = {
        "topics": [news.names.topic(t.name) for t in TOPICS if t.kind != "raw"],
        "groups": [news.names.group(role) for role in GROUPS],
        "redis": f"{news.names.key()}:*",
        "files": str(news.files),
    }
    advances = sum(map(len, plan.advances))
    if show.wants_json(as_json):
        found = {"executed": False, "follow": plan.follow, "reads": spans, "idle_advances": advances}
        show.print_json(found | {"estimate": estimate._asdict(), "creates": creates})
        return
    columns = ("topic", "partition", "silent_from", "from", "to", "events")
    out = show.out()
    out.print(show.table(columns, [[span[c] for c in columns] for span in spans], right=columns[1:]))
    events = ", ".join(f"{count:,} of {source}" for source, count in estimate.events.items())
    kept = f"{len(creates['topics'])} topics and {len(GROUPS)} groups named {news.names.group('*')}"
    out.print(
        f"{events}; {estimate.silent_events:,} more read in silence; about {estimate.samples:,} samples; "
        f"items and users as they are now; at least {estimate.seconds:,.0f} s"
        f"{', then it follows' if plan.follow else ''}\n"
        f"creates {kept}, Redis keys {creates['redis']}, files in {news.files}\n"
        "(nothing was done: --execute does it)",
        markup=False,
    )


def _print_result(settings: "Settings", news: "Settings", plan: "Plan", *, as_json: bool) -> None:
    from headrace.backfill import events_of  # noqa: PLC0415
    from headrace.backfill_compare import compare  # noqa: PLC0415
    from headrace.namespaces import whole_versions  # noqa: PLC0415

    live = settings.model_copy(update={"namespace": plan.source})
    found, versions = compare(live, news, plan), whole_versions(news)
    if show.wants_json(as_json):
        told = {"executed": True, "namespace": news.namespace, "events": events_of(plan), "versions": versions}
        show.print_json(told | {"samples": found._asdict()})
        return
    out = show.out()
    out.print(
        f"{news.namespace}: {sum(events_of(plan).values()):,} events; samples as in {plan.source}: {found.same:,} the "
        f"same, {found.other_content:,} with another content, {found.missing:,} missing, {found.extra:,} extra; "
        f"`headrace promote {news.namespace}` serves version {versions[-1]}",
        markup=False,
    )
    if found.examples:
        columns = tuple(found.examples[0])
        out.print("came out of order by more than lateness, or was still undecided at the end:", style="dim")
        out.print(show.table(columns, [list(one.values()) for one in found.examples]))


def _resend(settings: "Settings", dlq: str, *, execute: bool, as_json: bool) -> None:
    from streams import replay as replaying  # noqa: PLC0415

    found = replaying.execute(settings, dlq) if execute else replaying.plan(settings, dlq)
    if show.wants_json(as_json):
        show.print_json({"executed": execute} | found._asdict())
        return
    letters = dict.fromkeys([*found.resend, *found.cut, *found.replayed])
    counts = [[reason, *(one.get(reason, 0) for one in found[1:])] for reason in letters]
    columns = ("reason", *found._fields[1:])
    show.out().print(show.table(columns, counts, right=columns[1:]))
    show.out().print(found.text if execute else f"{found.text} (nothing was sent: --execute does it)", markup=False)


def promote(
    name: Name,
    bootstrap_server: options.Bootstrap = None,
    redis_url: options.RedisUrl = None,
    set_: options.Sets = None,
    as_json: options.AsJson = False,
) -> None:
    """Answer from another namespace, at once; `headrace rollback` goes back."""
    settings = options.settings(bootstrap_server, redis_url, None, set_)
    from headrace import namespaces  # noqa: PLC0415

    _print_switched(namespaces.promote(settings, options.namespace_name(name)), as_json)


def roll_back(
    bootstrap_server: options.Bootstrap = None,
    redis_url: options.RedisUrl = None,
    set_: options.Sets = None,
    as_json: options.AsJson = False,
) -> None:
    """Answer from what was served before: the namespace before a promotion, else the version before."""
    settings = options.settings(bootstrap_server, redis_url, None, set_)
    from headrace import namespaces  # noqa: PLC0415

    _print_switched(namespaces.roll_back(settings), as_json)


def _print_switched(found: Any, as_json: bool) -> None:
    if show.wants_json(as_json):
        show.print_json(found._asdict())
        return
    servers = {None: "no recall server answers here", True: "the server answers from it", False: "not answering yet"}
    before = f"; before: version {found.previous} of {found.previous_namespace}" if found.previous else ""
    show.out().print(
        f"version {found.version} of {found.namespace} is served{before} ({servers[found.answering]})", markup=False
    )


def drop(
    name: Name,
    bootstrap_server: options.Bootstrap = None,
    redis_url: options.RedisUrl = None,
    set_: options.Sets = None,
    as_json: options.AsJson = False,
) -> None:
    """Remove a namespace whole: derived topics, groups, Redis keys and files; never the raw topics."""
    settings = options.settings(bootstrap_server, redis_url, None, set_)
    from headrace import namespaces  # noqa: PLC0415

    found = namespaces.drop(settings, options.namespace_name(name), show.said_once(show.err()))
    if show.wants_json(as_json):
        show.print_json(found._asdict())
        return
    show.out().print(
        f"removed {len(found.topics)} topics, {len(found.groups)} groups, {found.keys} Redis keys"
        f"{' and the files' if found.files else ''} of {name}",
        markup=False,
    )
