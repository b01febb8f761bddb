"""Planning a backfill: which records of the raw topics a second namespace applies, and the state that it starts from.

    T - 2 (window + lateness)         T                                until, or now
    ──────────┬───────────────────────┬─────────────────────────────────────┬──────
              needed ── in silence ── starts ────────── applied ─────────── stops

From the beginning of the logs nothing has to be prepared: a group that never committed starts there. From a later T the
new group's offsets are committed beforehand, with the metadata that the join would have written had it been running:
the span before T is read in silence once here, to find what must be kept of it, and again by the worker.

A click that was read before T and had no verdict then gets it after T, and its sample is the new namespace's, as it
would be a restarted worker's. So the samples of a replay up to T and of one from T on are those of one over both.
"""

import contextlib
from collections.abc import Iterable, Iterator
from typing import cast

from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from contract import kafka
from contract.errors import RefusedError
from contract.messages import Advance, Click, Exposure, Marker, SampleRecord, decoder
from contract.settings import Settings
from streams import admin
from streams.course import Plan
from streams.door import Door, Homes
from streams.join import Commit, Join
from streams.metadata import TOTALS, Start, encode
from streams.processor import rules_of
from streams.restore import Restorer
from streams.verdicts import NEVER

_record = decoder(SampleRecord)
Offsets = dict[str, list[int]]


def make_plan(
    settings: Settings,
    name: str,
    since_ms: int | None,
    until_ms: int | None,
    *,
    follow: bool,
    from_version: int | None,
    repeat_advances: bool,
) -> Plan:
    """Plan a namespace `name` that replays what `settings.namespace` reads; changes nothing.

    Raises RefusedError when there is nothing to replay, UnreachableError when Kafka does not answer.
    """
    client = kafka.reach(settings.kafka)
    counts = kafka.partition_counts(client)
    topics = {source: settings.names.topic(source) for source in (*admin.joined_inputs(settings), "ranking-drops")}
    if missing := [topic for topic in topics.values() if topic not in counts]:
        raise RefusedError(f"nothing to replay: there is no topic {', '.join(missing)}")
    sizes = {source: counts[topic] for source, topic in topics.items()}
    places = [TopicPartition(topic, p) for source, topic in topics.items() for p in range(sizes[source])]
    first = _by_source(topics, sizes, kafka.start_offsets(client, places))
    ends = _by_source(topics, sizes, kafka.end_offsets(client, places, committed=True))
    reach_ms = 2 * (settings.join.window_ms + settings.join.lateness_ms)

    def arrived(ts_ms: int | None, otherwise: Offsets) -> Offsets:
        if ts_ms is None:
            return otherwise
        found = _by_source(topics, sizes, _first_since(client, places, ts_ms))
        return {
            s: [ends[s][p] if offset < 0 else max(offset, first[s][p]) for p, offset in enumerate(offsets)]
            for s, offsets in found.items()
        }

    starts = arrived(since_ms, first)
    needed = arrived(None if since_ms is None else max(0, since_ms - reach_ms), first)
    stops = {} if follow else arrived(until_ms, ends)
    stops = {s: [max(stop, starts[s][p]) for p, stop in enumerate(some)] for s, some in stops.items()}
    advances: list[list[Advance]] = [[] for _ in range(sizes["clicks"])]
    if repeat_advances and "exposures" in topics and settings.names.topic("samples") in counts:
        advances = _recorded(settings, len(advances), needed, stops)
    return Plan(
        name, settings.namespace, since_ms, until_ms, follow, from_version, starts, stops, needed, advances, ends
    )


def seed(settings: Settings, plan: Plan) -> None:
    """Commit where the new namespace starts, unless it is the beginning of the logs or it has started already."""
    if plan.since_ms is None or any(at.offset >= 0 for at in admin.committed(settings, tuple(plan.starts)).values()):
        return
    offsets = [
        TopicPartition(settings.names.topic("ranking-drops"), p, offset)
        for p, offset in enumerate(plan.starts["ranking-drops"])
    ]
    for partition in range(len(plan.starts["clicks"])):
        offsets += _commit(settings, plan, partition)
    member = kafka.consumer(settings.kafka, settings.names.group("streams"))
    try:
        member.commit(offsets=offsets, asynchronous=False)
    finally:
        member.close()


def undecided(settings: Settings, plan: Plan, partition: int) -> set[int]:
    """Offsets of the clicks that were read in silence and had no verdict yet at `starts`: theirs fall since T."""
    return set() if plan.since_ms is None else _begun(settings, plan, partition).undecided()


def _commit(settings: Settings, plan: Plan, partition: int) -> list[TopicPartition]:
    """Offsets and metadata of a join that stands at `starts`."""
    made = _begun(settings, plan, partition).commit()
    topic = settings.names.topic
    found = [TopicPartition(topic("clicks"), partition, made.clicks_position, made.clicks_metadata)]
    if "exposures" in plan.starts:
        found.append(TopicPartition(topic("exposures"), partition, made.exposures_position, made.exposures_metadata))
    return found


def _begun(settings: Settings, plan: Plan, partition: int) -> Join:
    """Make a join that has read, in silence, from `needed` to `starts`; it knows no histories and no counts."""
    clicks_only = "exposures" not in plan.starts
    homes = Homes(len(plan.starts["clicks"]))
    restorer = Restorer(
        settings.kafka,
        settings.names,
        rules_of(settings),
        Door(Exposure, homes),
        Door(Click, homes),
        {},
        lambda: None,
    )
    zeros = dict.fromkeys(TOTALS, 0)
    click = Start(plan.needed["clicks"][partition], NEVER, zeros if clicks_only else {}, _before(plan, partition))
    exposure = None if clicks_only else Start(plan.needed["exposures"][partition], NEVER, zeros, [])
    commit = Commit(
        0 if clicks_only else plan.starts["exposures"][partition],
        "" if exposure is None else encode(exposure),
        plan.starts["clicks"][partition],
        encode(click),
    )
    with contextlib.closing(restorer):
        return restorer.restore(partition, commit, counts=False)


def _before(plan: Plan, partition: int) -> list[Advance]:
    """Advances made before both inputs were at `starts`."""
    if "exposures" not in plan.starts:
        return []
    x, c = plan.starts["exposures"][partition], plan.starts["clicks"][partition]
    return [a for a in plan.advances[partition] if a.exposures_position <= x and a.clicks_position <= c]


def _recorded(settings: Settings, partitions: int, needed: Offsets, stops: Offsets) -> list[list[Advance]]:
    """Idle advances that a namespace has recorded between two positions, by partition."""
    found: list[list[Advance]] = [[] for _ in range(partitions)]
    for partition, marker in _markers(settings, partitions):
        found[partition] += marker.advances

    def wanted(partition: int, some: Iterable[Advance]) -> Iterator[Advance]:
        for one in some:
            at = {"exposures": one.exposures_position, "clicks": one.clicks_position}
            beyond = any(at[s] > stops[s][partition] for s in at) if stops else False
            if not beyond and any(at[s] >= needed[s][partition] for s in at):
                yield one

    return [list(wanted(partition, some)) for partition, some in enumerate(found)]


def _markers(settings: Settings, partitions: int) -> Iterator[tuple[int, Marker]]:
    topic = settings.names.topic("samples")
    for message in kafka.read_to_end(settings.kafka, topic, list(range(partitions))):
        if message.key() is None:  # samples and hard negatives have their user's
            record = _record.decode(cast("bytes", message.value()))
            if isinstance(record, Marker):
                yield cast("int", message.partition()), record


def _first_since(client: AdminClient, places: list[TopicPartition], ts_ms: int) -> dict[tuple[str, int], int]:
    """First offset that arrived at or after a time; -1 where none did."""
    spec = OffsetSpec.for_timestamp(ts_ms)
    answers = client.list_offsets({TopicPartition(p.topic, p.partition): spec for p in places}, request_timeout=10)
    return {(p.topic, p.partition): future.result(10).offset for p, future in answers.items()}


def _by_source(topics: dict[str, str], sizes: dict[str, int], found: dict[tuple[str, int], int]) -> Offsets:
    return {source: [found[topic, p] for p in range(sizes[source])] for source, topic in topics.items()}
