"""Namespaces as a whole: which one is served, going back, and taking one away without a trace."""

import contextlib
import shutil
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
import redis
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from contract import kafka
from contract import redis as redis_edge
from contract.errors import RefusedError, UnreachableError
from contract.messages import Served
from contract.settings import Settings
from contract.topics import TOPICS
from headrace import backfill, ports, stack
from headrace.process import of_stack, stop, wait_until
from publisher import control, index_files
from publisher.store import Store

# Every group that a role or command of a namespace makes.
GROUPS = (
    "streams",
    "streams-check",
    "trainer",
    "trainer-features",
    "trainer-again",
    "publisher",
    "server",
    "replay",
)
SWITCH_S = 15.0
ALIVE_MS = 3_000  # the publisher leaves a sign of life each second
LEAVING_S = 20.0  # a static member of a group is one until its session ends
SCAN_KEYS = 1_000


class Switched(NamedTuple):
    """What is served now."""

    namespace: str
    version: int
    previous_namespace: str
    previous: int
    answering: bool | None  # whether the recall server of these settings answers from it; None: there is none


class Dropped(NamedTuple):
    """What was taken away."""

    topics: list[str]
    groups: list[str]
    keys: int
    files: bool


def named(settings: Settings, name: str) -> Settings:
    """Settings under another namespace."""
    return settings.model_copy(update={"namespace": name})


def whole_versions(settings: Settings) -> list[int]:
    """Versions of a namespace that have their rows in Redis and, where index files are kept here, those too."""
    try:
        applied = Store(redis_edge.reach(settings.redis), settings.names).applied()
    except redis.RedisError as error:
        raise UnreachableError(f"Redis does not answer ({type(error).__name__})") from None
    found = {int(name.removeprefix("version:")) for name in applied if name.startswith("version:")}
    return sorted(found & {version for version, _ in index_files.written(settings.files)})


def promote(settings: Settings, name: str) -> Switched:
    """Serve the newest whole version of a namespace; the one served before is remembered for going back.

    Raises RefusedError when it has none.
    """
    target = named(settings, name)
    pointer = _pointer(settings)
    if pointer is not None and pointer.namespace == name:
        return _told(settings, pointer)
    whole = whole_versions(target)
    if not whole:
        raise RefusedError(
            f"namespace {name} has no whole version to serve: `headrace replay --as {name} --execute` makes one "
            "(`headrace lag --namespace NAME` says how far it is)"
        )
    return _switch(settings, pointer, name, whole[-1])


def roll_back(settings: Settings) -> Switched:
    """Serve what was served before: the namespace before a promotion, else the version before.

    Raises RefusedError when there is nothing to go back to.
    """
    pointer = _pointer(settings)
    if pointer is None or not pointer.previous_namespace:
        served = settings if pointer is None else named(settings, pointer.namespace)
        return _told(settings, control.roll_back(served))
    name = pointer.previous_namespace
    whole = whole_versions(named(settings, name))
    if not whole:
        raise RefusedError(f"namespace {name}, which was served before, has no whole version any more")
    return _switch(settings, pointer, name, pointer.previous if pointer.previous in whole else whole[-1])


def _pointer(settings: Settings) -> Served | None:
    kafka.create_topics(settings)
    try:
        return control.pointer_of(settings)
    except KafkaException as error:
        raise UnreachableError(f"control cannot be read: {error}") from None


def _switch(settings: Settings, pointer: Served | None, name: str, version: int) -> Switched:
    now_ms = time.time_ns() // 1_000_000
    before = ("", 0) if pointer is None else (pointer.namespace, pointer.version)
    made = Served(name, version, before[1], now_ms, before[0])
    control.write(settings, made)
    return _told(settings, made)


def _told(settings: Settings, pointer: Served) -> Switched:
    """Wait until the server answers from what is served, if there is a server."""
    answering: bool | None = None
    if ports.answers(settings.server.port, settings.server.host):
        answering = wait_until(lambda: _answers_from(settings, pointer), SWITCH_S)
    before = pointer.previous_namespace or (pointer.namespace if pointer.previous else "")
    return Switched(pointer.namespace, pointer.version, before, pointer.previous, answering)


def _answers_from(settings: Settings, pointer: Served) -> bool:
    with contextlib.suppress(OSError, msgspec.MsgspecError, UnicodeDecodeError):
        with ports.page(settings.server.host, settings.server.port, "/version", 2) as answer:
            told = msgspec.json.decode(answer.read())
        return bool(told["namespace"] == pointer.namespace and told["version"] >= pointer.version)
    return False


def drop(settings: Settings, name: str, say: Callable[[str], object] = lambda _: None) -> Dropped:
    """Remove a namespace whole: topics, groups, Redis keys, files. What is gone already is passed over.

    Raises RefusedError while it is served, or while roles of it run.
    """
    target = named(settings, name)
    _refuse_in_use(settings, target, say)
    client = kafka.reach(settings.kafka)
    topics = _drop_topics(client, target)
    groups = _drop_groups(client, target)
    keys = _drop_keys(target)
    there = target.files.exists()
    shutil.rmtree(target.files, ignore_errors=True)
    return Dropped(topics, groups, keys, there)


def _refuse_in_use(settings: Settings, target: Settings, say: Callable[[str], object]) -> None:
    name = target.namespace
    pointer = _pointer_if_any(settings)
    if pointer is not None and pointer.namespace == name:
        raise RefusedError(
            f"namespace {name} is served: promote another one first (`headrace promote NAME`, `headrace rollback`)"
        )
    if target.files.exists() and stack.is_supervised(target.files):
        raise RefusedError(f"a replay into {name} runs: end it first (Ctrl-C)")
    stop(of_stack(backfill.stack_id(target)), stack.ROLE_GRACE_S)  # of a replay that was killed
    if _is_running(settings, name):
        raise RefusedError(f"roles of {name} run here: stop them first (`headrace down`)")
    beat_ms = Store(redis_edge.reach(target.redis), target.names).heartbeat_ms()
    if beat_ms is not None and time.time_ns() // 1_000_000 - beat_ms < ALIVE_MS:
        time.sleep(ALIVE_MS / 1000)  # it may have ended a moment ago
        again_ms = Store(redis_edge.reach(target.redis), target.names).heartbeat_ms()
        if again_ms != beat_ms:
            raise RefusedError(f"a publisher of {name} runs: stop its roles first")
    client = kafka.reach(settings.kafka)
    if _members(client, target):
        say(f"waiting until the last members of {name}'s groups have left")
        if not wait_until(lambda: not _members(client, target), LEAVING_S, 0.5):
            raise RefusedError(f"groups of {name} have members: stop its roles first ({_members(client, target)})")
    if pointer is not None and pointer.previous_namespace == name:  # the way back goes with it
        control.write(settings, msgspec.structs.replace(pointer, previous=0, previous_namespace=""))


def _pointer_if_any(settings: Settings) -> Served | None:
    """Pointer, where there is a control topic; dropping makes no topic."""
    counts = kafka.partition_counts(kafka.reach(settings.kafka))
    return control.pointer_of(settings) if settings.names.topic("control") in counts else None


def _is_running(settings: Settings, name: str) -> bool:
    """Whether the local stack runs roles under that name."""
    record = stack.read_record(settings.data_dir)
    if record is None or record.settings.get("namespace", "live") != name:
        return False
    return any(stack.running(settings.data_dir, role) for role in stack.ROLES)


def _members(client: AdminClient, target: Settings) -> list[str]:
    """Members of the namespace's groups."""
    asked = [target.names.group(role) for role in GROUPS]
    found = []
    for group, future in client.describe_consumer_groups(asked, request_timeout=10).items():
        try:
            found += [f"{group}: {member.member_id}" for member in future.result(10).members]
        except KafkaException as error:
            if error.args[0].code() != KafkaError.GROUP_ID_NOT_FOUND:
                raise
    return found


def _drop_topics(client: AdminClient, target: Settings) -> list[str]:
    counts = kafka.partition_counts(client)
    names = [target.names.topic(topic.name) for topic in TOPICS if topic.kind != "raw"]
    there = [name for name in names if name in counts]
    for future in client.delete_topics(there, operation_timeout=30).values() if there else ():
        with _passing_over(KafkaError.UNKNOWN_TOPIC_OR_PART):
            future.result(60)
    return there


def _drop_groups(client: AdminClient, target: Settings) -> list[str]:
    gone = []
    asked = [target.names.group(role) for role in GROUPS]
    for group, future in client.delete_consumer_groups(asked, request_timeout=10).items():
        with _passing_over(KafkaError.GROUP_ID_NOT_FOUND):
            future.result(20)
            gone.append(group)
    return gone


@contextlib.contextmanager
def _passing_over(code: int) -> Any:
    try:
        yield
    except KafkaException as error:
        if error.args[0].code() != code:
            raise


def _drop_keys(target: Settings) -> int:
    client = redis_edge.reach(target.redis)
    count, batch = 0, list[Any]()
    for key in client.scan_iter(match=f"{target.names.key()}:*", count=SCAN_KEYS):
        batch.append(key)
        if len(batch) == SCAN_KEYS:
            count, batch = count + _unlink(client, batch), []
    return count + _unlink(client, batch)


def _unlink(client: Any, keys: list[Any]) -> int:
    for key in keys:  # one by one: on a cluster each lies on its own node
        client.unlink(key)
    return len(keys)
