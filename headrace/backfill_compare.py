"""Whether a replay gave what the namespace that it replays has: samples by id, and by content from the beginning."""

import hashlib
from typing import Any, NamedTuple, cast

from confluent_kafka import TopicPartition

from contract import kafka
from contract.messages import Sample, SampleRecord, decoder
from contract.settings import Settings
from streams.backfill import undecided
from streams.course import Plan

EXAMPLES = 20
_record = decoder(SampleRecord)
Id = tuple[str, str, int, str]


class Difference(NamedTuple):
    """Samples of the span that both have, and what differs."""

    same: int
    other_content: int  # the same id: histories reach back to the replay's start only
    missing: int  # the replay does not have them
    extra: int  # it alone has them
    examples: list[dict[str, Any]]


def count_samples(settings: Settings) -> int:
    """Records on `samples`, roughly: markers are among them."""
    client = kafka.admin(settings.kafka)
    topic = settings.names.topic("samples")
    places = [TopicPartition(topic, p) for p in range(kafka.partition_counts(client).get(topic, 0))]
    return sum(kafka.end_offsets(client, places).values()) - sum(kafka.start_offsets(client, places).values())


def compare(live: Settings, news: Settings, plan: Plan) -> Difference:
    """Compare the samples of a plan's span, partition by partition."""
    same = other = missing = extra = 0
    examples: list[dict[str, Any]] = []
    for partition in range(len(plan.starts["clicks"])):
        waiting = undecided(news, plan, partition)
        a, b = (_samples(settings, plan, partition, waiting) for settings in (live, news))
        both = a.keys() & b.keys()
        same += sum(a[key] == b[key] for key in both)
        other += sum(a[key] != b[key] for key in both)
        gone, come = sorted(a.keys() - b.keys()), sorted(b.keys() - a.keys())
        missing, extra = missing + len(gone), extra + len(come)
        examples += [_told("missing", key) for key in gone] + [_told("extra", key) for key in come]
    return Difference(same, other, missing, extra, examples[:EXAMPLES])


def _samples(settings: Settings, plan: Plan, partition: int, waiting: set[int]) -> dict[Id, bytes]:
    """Digest of each sample of which some event was applied, or the verdict was still due; none is beyond the stops."""
    found: dict[Id, bytes] = {}
    for message in kafka.read_to_end(settings.kafka, settings.names.topic("samples"), [partition]):
        if message.key() is None:
            continue
        value = cast("bytes", message.value())
        record = _record.decode(value)
        if isinstance(record, Sample) and _is_of(plan, partition, record, waiting):
            key = (record.user_id, record.request_id, record.exposure_ts_ms, record.item_id)
            found[key] = hashlib.blake2b(value, digest_size=8).digest()
    return found


def _is_of(plan: Plan, partition: int, sample: Sample, waiting: set[int]) -> bool:
    at = {"exposures": sample.exposure_offset, "clicks": sample.click_offset}
    joined = [s for s in at if s in plan.starts]
    begun = any(at[s] >= plan.starts[s][partition] for s in joined) or sample.click_offset in waiting
    ends = plan.stops or plan.ends
    return begun and all(at[s] < ends[s][partition] for s in joined)


def _told(what: str, key: Id) -> dict[str, Any]:
    user, request, ts_ms, item = key
    return {"what": what, "user_id": user, "request_id": request, "exposure_ts_ms": ts_ms, "item_id": item}
