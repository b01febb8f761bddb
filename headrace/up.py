"""`headrace up`: a Kafka, a Redis and all roles on this machine, from nothing to a served model.

1. somebody supervises already: keep it; its orphans (a killed supervisor's): stop them first
2. what is not given by flag or environment runs here: jars, ports, the command of each process
3. leave the plan, start the detached supervisor, wait until everything answers
4. replay the example, once in the life of this Kafka
5. wait until nothing lags, then sum up
"""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from contract.errors import InternalError, RefusedError, UnreachableError
from contract.settings import Settings, environment_of
from headrace import jars, local_kafka, local_redis, options, ports, stack
from headrace.down import down
from headrace.process import spawn, wait_until
from headrace.show import err
from headrace.stack import Plan, Record, Service

START_S = 90.0
TRIES = 4  # restarts after which a process that never became well is said to fail
DEFAULT_PORTS = {"kafka": 9092, "controller": 9093, "redis": 6379}
ROLE_PORTS = {
    "streams": "streams.port",
    "trainer": "train.port",
    "publisher": "publisher.port",
    "server": "server.port",
}
Say = Callable[[str], None]


def start(given: Mapping[str, Any], say: Say) -> tuple[Settings, bool]:
    """Bring the stack up; give its settings, and whether this call started it.

    Idempotent. Raises RefusedError when it runs with other settings than the ones given, UnreachableError when a
    given Kafka or Redis does not answer, BadInputError when something needed cannot be had.
    """
    home = options.home(given)
    if stack.is_supervised(home):
        return _keep(home, given, say), False
    record = stack.read_record(home)
    if record and (count := stack.stop_orphans(record)):
        say(f"stopped {count} processes that a killed supervisor had left")
    known = record.ports if record else {}
    settings, plan = _plan(home, given, known, say)
    stack.write_plan(home, plan)
    stack.write_record(home, Record(plan.stack_id, None, plan.settings, plan.ports, secrets=plan.secrets))
    command = [sys.executable, "-m", "headrace.supervisor", str(home)]
    spawn(command, home / "logs" / "supervisor.log", environment_of(settings))
    say("starting " + ", ".join(service.name for service in plan.services))
    _wait_for_all(home, plan)
    return settings, True


@contextlib.contextmanager
def undone_if_cut_short(home: Path, say: Say) -> Iterator[None]:
    """Stop what the block started if it does not come to its end (Ctrl-C, an error); what ran before stays."""
    ran = stack.is_supervised(home)
    try:
        yield
    except BaseException:
        if not ran and stack.is_supervised(home):
            say("stopping what was started; `headrace up` goes on from where it was")
            down(home)
        raise


def _keep(home: Path, given: Mapping[str, Any], say: Say) -> Settings:
    """Settings of what runs; RefusedError if other ones were given, BadInputError if a secret of it was not."""
    if not wait_until(lambda: stack.read_record(home) is not None, 5):
        raise InternalError(f"a supervisor holds {home} but wrote no stack.json: `headrace down`, then `headrace up`")
    settings = options.load_at(home, given)
    record = stack.read_record(home)
    if record and (other := other_than_running(record, given, settings)):
        raise RefusedError(f"it runs already, with another {', '.join(other)}: `headrace down` first")
    say("it runs already")
    return settings


def other_than_running(record: Record, given: Mapping[str, Any], settings: Settings) -> list[str]:
    """Names that flags or environment gave another value than the running stack has; secrets are known by digest."""
    now = options.differences(settings) | options.digests(settings, salt=record.stack_id)
    then = record.settings | record.secrets
    return [name for name in {**then, **now} if options.is_given(given, name) and now.get(name) != then.get(name)]


def _plan(home: Path, given: Mapping[str, Any], known: Mapping[str, int], say: Say) -> tuple[Settings, Plan]:
    """Choose what runs here and where; checks that a given Kafka or Redis answers."""
    from contract import kafka, redis  # noqa: PLC0415  (librdkafka is not needed to stop or to show help)
    from contract.settings import load  # noqa: PLC0415

    preferred = load({**given, "data_dir": home}, {n: p for n, p in known.items() if "." in n})
    own_kafka = not options.is_given(given, "kafka.bootstrap_servers")
    own_redis = not options.is_given(given, "redis.url")
    if not own_kafka:
        kafka.reach(preferred.kafka)
    if not own_redis:
        redis.reach(preferred.redis)
    chosen = choose_ports(_wanted_ports(preferred, known, own_kafka=own_kafka, own_redis=own_redis), say)
    here: dict[str, Any] = {name: port for name, port in chosen.items() if "." in name}
    services = []
    if own_kafka:
        here["kafka.bootstrap_servers"] = f"{ports.LOOPBACK}:{chosen['kafka']}"
        command = _kafka_command(home / "kafka", chosen, say)
        services.append(Service("kafka", command, 0, chosen["kafka"]))
    if own_redis:
        here["redis.url"] = f"redis://{ports.LOOPBACK}:{chosen['redis']}/0"
        command = local_redis.command(home / "redis", chosen["redis"])
        services.append(Service("redis", command, 0, chosen["redis"]))
    settings = load({**given, **here, "data_dir": home})
    for role, port in ROLE_PORTS.items():
        host = settings.server.host if role == "server" else settings.pages_host
        services.append(Service(role, [sys.executable, "-m", "headrace", "run", role], 1, chosen[port], host))
    stack_id = uuid4().hex
    recorded = options.differences(settings) | {"data_dir": str(home)}
    digests = options.digests(settings, salt=stack_id)
    return settings, Plan(stack_id, services, recorded, dict(chosen), str(Path.cwd()), digests)


def _wanted_ports(settings: Settings, known: Mapping[str, int], *, own_kafka: bool, own_redis: bool) -> dict[str, int]:
    servers = (["kafka", "controller"] if own_kafka else []) + (["redis"] if own_redis else [])
    wanted = {name: known.get(name, DEFAULT_PORTS[name]) for name in servers}
    roles = settings.model_dump()
    for dotted in ROLE_PORTS.values():
        group, _, name = dotted.partition(".")
        wanted[dotted] = roles[group][name]
    return wanted


def choose_ports(wanted: Mapping[str, int], say: Say) -> dict[str, int]:
    """Give each its wanted port if it is free, else another free one, and say so."""
    chosen: dict[str, int] = {}
    for name, port in wanted.items():
        chosen[name] = ports.free(port, chosen.values())
        if chosen[name] != port:
            say(f"port {port} is taken: {name.removesuffix('.port')} listens on {chosen[name]}")
    return chosen


def _kafka_command(directory: Path, chosen: Mapping[str, int], say: Say) -> list[str]:
    """Command of the local broker; shows how far the download of its jars is."""
    if jars.are_here():
        return local_kafka.command(directory, chosen["kafka"], chosen["controller"])
    say(f"fetching Apache Kafka {jars.VERSION} once for this user (44 MB)")
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=err(), transient=True, disable=not err().is_terminal) as progress:
        task = progress.add_task("jars", total=jars.TOTAL_BYTES)
        return local_kafka.command(
            directory,
            chosen["kafka"],
            chosen["controller"],
            lambda done: progress.update(task, completed=done),
        )


def _wait_for_all(home: Path, plan: Plan) -> None:
    """Wait until every server accepts connections and every role is healthy."""
    until = time.monotonic() + START_S
    for service in plan.services:
        while not is_well(service):
            _refuse_failing(home, plan, service)
            if time.monotonic() > until:
                raise UnreachableError(
                    f"{service.name} does not answer at {service.host}:{service.port} after {START_S:.0f} s: "
                    f"see {home / 'logs' / service.name}.log; `headrace down` stops the rest"
                )
            time.sleep(0.1)


def is_well(service: Service) -> bool:
    """Whether a server accepts connections, or a role's /healthz answers 200."""
    if service.port is None:
        return True
    if service.stage == 0:
        return ports.answers(service.port)
    try:
        with ports.page(service.host, service.port, "/healthz", 1) as answer:
            return bool(answer.status == 200)  # noqa: PLR2004
    except OSError:
        return False


def _refuse_failing(home: Path, plan: Plan, service: Service) -> None:
    record = stack.read_record(home)
    process = record.processes.get(service.name) if record and record.stack_id == plan.stack_id else None
    if process and process.restarts >= TRIES:
        raise UnreachableError(
            f"{service.name} keeps ending (exit {process.last_exit}): {last_line(home, service.name)}"
        )


def last_line(home: Path, name: str) -> str:
    """Last line that a process logged, and where to read more."""
    log = home / "logs" / f"{name}.log"
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return f"{lines[-1][:300] if lines else 'it logged nothing'}  (see {log})"
