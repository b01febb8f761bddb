"""`headrace status`: what runs, how far it is, how good it is. A part that is down shows as null, never as an error."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Group, RenderableType
from rich.text import Text

from contract.errors import HeadraceError
from contract.settings import Settings
from contract.topics import RAW_INPUTS
from headrace import show, stack, trainer_page
from headrace.process import is_alive, pss_bytes

EVENTS = ("exposures", "clicks", "samples", "outcomes", "dead_letters")
MODEL = ("version", "sequence", "full_updates", "recall_at_50", "popularity_recall_at_50", "freshness_ms")
Value = TypeVar("Value")


def collect(settings: Settings) -> dict[str, Any]:
    """Give exactly the keys of `status --json`; null for whatever does not answer."""
    from headrace import offsets  # noqa: PLC0415  (librdkafka: `--help` does without)
    from streams.lag import total  # noqa: PLC0415

    events = _or_none(lambda: _events(settings)) or {}
    rows = _or_none(lambda: offsets.lag(settings))
    model = _or_none(lambda: _model(settings)) or {}
    return (
        {name: events.get(name) for name in EVENTS}
        | {"lag": None if rows is None else total(rows)}
        | {name: model.get(name) for name in MODEL}
        | {"gate": _or_none(lambda: trainer_page.gate(settings))}
        | {"roles": roles(settings.data_dir)}
    )


def _or_none(ask: Callable[[], Value]) -> Value | None:
    """Answer, or None when what is asked is down: status shows what it can."""
    import redis  # noqa: PLC0415
    from confluent_kafka import KafkaException  # noqa: PLC0415

    try:
        return ask()
    except (HeadraceError, KafkaException, redis.RedisError, TimeoutError):
        return None


def _events(settings: Settings) -> dict[str, int]:
    """Totals that streams committed, and the dead letters that its checks of items and users wrote beside."""
    from contract import kafka as edge  # noqa: PLC0415
    from streams import admin  # noqa: PLC0415

    client = edge.reach(settings.kafka)
    found = admin.totals(settings)
    if found:
        found["dead_letters"] = found.get("dead_letters", 0) + _checked_out(settings, client)
    return found


def _checked_out(settings: Settings, client: Any) -> int:
    """Records on the dead letter topics of items and users, which are written outside of transactions."""
    from confluent_kafka import TopicPartition  # noqa: PLC0415

    from contract import kafka as edge  # noqa: PLC0415

    counts = edge.partition_counts(client)
    names = [settings.names.topic(f"{topic}.dlq") for topic in ("items", "users")]
    places = [(name, p) for name in names for p in range(counts.get(name, 0))]
    partitions = [TopicPartition(*at) for at in places]
    ends = edge.end_offsets(client, partitions)
    return sum(ends.values()) - sum(edge.start_offsets(client, partitions).values())


def _model(settings: Settings) -> dict[str, Any]:
    from contract import redis as edge  # noqa: PLC0415
    from publisher import store  # noqa: PLC0415

    return dict(store.read_status(edge.reach(settings.redis), settings.names))


def served_version(settings: Settings) -> int | None:
    """Version that is served now; None while there is none, or Redis is down."""
    return (_or_none(lambda: _model(settings)) or {}).get("version")


def roles(home: Path) -> dict[str, dict[str, Any]]:
    """Every process of the local stack: alive, restarts, pid, memory; empty where none was started."""
    record = None
    with contextlib.suppress(HeadraceError):
        record = stack.read_record(home)
    return {
        name: {
            "alive": is_alive(process.identity),
            "restarts": process.restarts,
            "pid": process.worker or process.pid,
            "pss_bytes": pss_bytes(process.identity) if process.identity else None,
        }
        for name, process in (record.processes if record else {}).items()
    }


def advice(settings: Settings) -> str | None:
    """What to do about raw topics whose timestamps are the producers' and not arrival; None where there is nothing."""
    names = _or_none(lambda: _stamped_by_producers(settings))
    if not names:
        return None
    return (
        f"{', '.join(names)}: message.timestamp.type is CreateTime, so a producer's clock is taken for the arrival "
        "(what is refused as ahead, --since, --until, freshness and retention go by it); for each: kafka-configs.sh "
        f"--bootstrap-server {settings.kafka.bootstrap_servers} --alter --topic {names[0]} "
        "--add-config message.timestamp.type=LogAppendTime (records written before keep theirs)"
    )


def _stamped_by_producers(settings: Settings) -> list[str]:
    from confluent_kafka.admin import ConfigResource, ResourceType  # noqa: PLC0415

    from contract import kafka as edge  # noqa: PLC0415

    client = edge.reach(settings.kafka)
    counts = edge.partition_counts(client)
    raw = [name for name in map(settings.names.topic, RAW_INPUTS) if name in counts]
    asked = client.describe_configs([ConfigResource(ResourceType.TOPIC, name) for name in raw]) if raw else {}
    return [of.name for of, told in asked.items() if told.result(10)["message.timestamp.type"].value == "CreateTime"]


def render(found: dict[str, Any], settings: Settings) -> RenderableType:
    """Tables of what `collect` gave."""
    processes = [
        [name, "alive" if one["alive"] else "down", one["restarts"], one["pid"], show.size(one["pss_bytes"])]
        for name, one in found["roles"].items()
    ]
    parts: list[RenderableType] = []
    if processes:
        parts.append(show.table(("process", "state", "restarts", "pid", "memory"), processes, ("restarts", "memory")))
        held = sum(one["pss_bytes"] or 0 for one in found["roles"].values())
        parts.append(Text(f"memory of all: {show.size(held)}\n", style="dim"))
    facts = [
        *([name.replace("_", " "), _number(found[name])] for name in (*EVENTS, "lag")),
        ["version", found["version"] and f"{found['version']}, sequence {found['sequence']}"],
        ["full updates", found["full_updates"]],
        *_gate_rows(found["gate"]),
        ["recall_at_50", _percent(found["recall_at_50"])],
        ["popularity's", _percent(found["popularity_recall_at_50"])],
        ["freshness", found["freshness_ms"] and f"{found['freshness_ms'] / 1000:.1f} s"],
    ]
    parts.append(show.table(("namespace", f"{settings.names.prefix}{settings.names.namespace}"), facts))
    return Group(*parts)


def _gate_rows(gate: dict[str, Any] | None) -> list[list[Any]]:
    """What is under way, the last verdict, and why nothing goes out."""
    if gate is None:
        return []
    counted = f", {gate['paired']} of {gate['wanted']} samples" if gate["phase"] == "shadowing" else ""
    rows = [["full update", gate["phase"] + counted]] if gate["phase"] != "none" else []
    if gate["outcome"]:
        rows.append(["gate", f"{gate['day']} {gate['outcome']}: {gate['reason']}"])
    if gate["deltas_held"]:
        rows.append(["deltas held", gate["deltas_held"]])
    return rows


def _number(value: int | None) -> str | None:
    return None if value is None else f"{value:,}"


def _percent(value: float | None) -> str | None:
    return None if value is None else f"{100 * value:.1f} %"
