"""up, down, status, run: the local stack and its roles."""

import enum
import importlib
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from contract.errors import BadInputError
from headrace import options, ports, show

EXAMPLE = Path(__file__).parent.parent / "examples" / "kuairand"
ROLE_MODULES = {
    "streams": "streams.app",
    "trainer": "trainer.train",
    "publisher": "publisher.apply",
    "server": "publisher.server",
}
FOLLOW_S = 2.0


class Role(enum.StrEnum):
    """The four roles."""

    streams = enum.auto()
    trainer = enum.auto()
    publisher = enum.auto()
    server = enum.auto()


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (up, down, status, run):
        app.command()(command)


def up(
    bootstrap_server: options.Bootstrap = None,
    redis_url: options.RedisUrl = None,
    namespace: options.Namespace = None,
    set_: options.Sets = None,
    example: Annotated[
        bool | None,
        typer.Option(
            "--example/--no-example", help="replay six days of real events, once; default: into a local Kafka"
        ),
    ] = None,
    speed: Annotated[float, typer.Option(min=1, help="event seconds of the example replayed in one second")] = 10_000,
    follow: Annotated[bool, typer.Option("--follow", help="stay, and show the status until Ctrl-C")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Start Kafka, Redis and all roles here, replay the example once, wait for lag 0, sum up."""
    from headrace import example as examples  # noqa: PLC0415
    from headrace import ready  # noqa: PLC0415
    from headrace import up as stack_up  # noqa: PLC0415

    given = options.flags(bootstrap_server, redis_url, namespace, set_)
    say = show.said_once(show.err())
    with stack_up.undone_if_cut_short(options.home(given), say):
        settings, started = stack_up.start(given, say)
        sent = False
        wanted = example if example is not None else not options.is_given(given, "kafka.bootstrap_servers")
        if wanted and EXAMPLE.is_dir():
            sent = examples.replay_once(settings, EXAMPLE, speed, say)
        ready.wait(settings, say, ready.calm_s(settings, events=sent, started=started))
    _print_status(settings, as_json)
    _print_advice(settings)
    if not show.wants_json(as_json):
        _print_addresses(settings)
    while follow:
        time.sleep(FOLLOW_S)
        _print_status(settings, as_json)


def _print_addresses(settings: Any) -> None:
    from contract.redis_url import masked  # noqa: PLC0415

    show.out().print(
        f"Kafka {settings.kafka.bootstrap_servers} · Redis {masked(settings.redis.url.get_secret_value())} · "
        f"recall server {ports.url(settings.server.host, settings.server.port, '/docs')} · "
        "`headrace down` stops it all",
        style="dim",
        markup=False,
    )


def down(set_: options.Sets = None) -> None:
    """Stop what `headrace up` started, and nothing else; data stays."""
    from headrace.down import down as stop  # noqa: PLC0415

    home = options.home(options.flags(sets=set_))
    stopped = stop(home)
    sys.stdout.write(f"stopped {', '.join(stopped)}; data stays in {home}\n" if stopped else "nothing was running\n")


def status(
    bootstrap_server: options.Bootstrap = None,
    redis_url: options.RedisUrl = None,
    namespace: options.Namespace = None,
    set_: options.Sets = None,
    as_json: options.AsJson = False,
) -> None:
    """What runs, how far it is, how good it is."""
    settings = options.settings(bootstrap_server, redis_url, namespace, set_)
    if _print_status(settings, as_json)["lag"] is not None:  # Kafka answers
        _print_advice(settings)


def _print_advice(settings: Any) -> None:
    from headrace import status as states  # noqa: PLC0415

    if said := states.advice(settings):
        show.err().print(said, markup=False, soft_wrap=True)


def _print_status(settings: Any, as_json: bool) -> dict[str, Any]:
    from headrace import status as states  # noqa: PLC0415

    found = states.collect(settings)
    if show.wants_json(as_json):
        show.print_json(found)
    else:
        show.out().print(states.render(found, settings))
    return found


def run(
    role: Annotated[Role, typer.Argument(help="which role to run in this process, until SIGTERM")],
    slot: Annotated[int, typer.Option(min=0, help="number of this worker among several of streams")] = 0,
    bootstrap_server: options.Bootstrap = None,
    redis_url: options.RedisUrl = None,
    namespace: options.Namespace = None,
    set_: options.Sets = None,
) -> None:
    """Run one role here, in the foreground."""
    from headrace import prefork  # noqa: PLC0415

    settings = options.settings(bootstrap_server, redis_url, namespace, set_)
    if role is Role.streams:
        settings.streams.port_of(slot)  # past the last port: said before Kafka is waited for
    elif slot:
        raise BadInputError(f"--slot numbers workers of streams, {role} has none: leave it out")
    from contract import log  # noqa: PLC0415

    log.set_up(role.value, settings.log_level)
    module = importlib.import_module(ROLE_MODULES[role.value])
    told = {"slot": slot} if role is Role.streams else {}
    prefork.run(lambda: module.run(settings, **told))
