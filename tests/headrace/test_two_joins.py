"""The streaming join and the offline join, written apart from one text, must agree to the last record."""

import dataclasses
import random

import pytest

from contract.messages import Click, Exposure
from headrace import offline_times
from headrace.audit_compare import Check, compare, same_counts, same_history, same_sample
from headrace.offline_join import Joined, id_of, join_partition
from streams.join import Record
from tests.streams.drive import Topics, run
from tests.streams.worlds import RULES, case_of


def _offline(record: Record, kind: type[Exposure | Click]) -> offline_times.Record:  # type: ignore[type-arg]
    event = record.event if isinstance(record.event, kind) else None
    return offline_times.Record(record.offset, record.arrival_ms, event, record.reason)


def differences(seed: int) -> list[str]:
    """What the audit would say about a random world, whatever its plan did."""
    world, plan = case_of(seed)
    rnd = random.Random(seed)
    rules = dataclasses.replace(RULES, history_length=rnd.choice([1, 2]), shown_exposures=rnd.choice([0, 1, 2]))
    topics = run(rules, world, plan).topics
    joined = join_partition(
        offline_times.Rules(**dataclasses.asdict(rules)),
        [_offline(record, Exposure) for record in world.exposures],
        [_offline(record, Click) for record in world.clicks],
        topics.advances,
    )
    return _compare(topics, joined, 4 * rules.history_length, rules.shown_exposures, rules.half_life_ms)


def _compare(topics: Topics, joined: Joined, ring: int, shown: int, half_life_ms: int) -> list[str]:
    check = Check("streams", "all")
    compare(check, "sample", joined.samples, ((id_of(s), s) for s in topics.samples), same_sample(set()))
    compare(check, "outcome", joined.outcomes, ((o.exposure_offset, o) for o in topics.outcomes))
    letters = {(source, offset): reason for source, offset, reason in joined.dead_letters}
    compare(check, "letter", letters, (((d.source, d.offset), d.reason) for d in topics.dead_letters))
    compare(check, "history", joined.histories, topics.histories.items(), same_history(ring, shown))
    same = same_counts(joined.ref_ms, half_life_ms)
    compare(check, "count", joined.popularity, topics.popularity.items(), same)
    return check.examples


@pytest.mark.parametrize("start", range(0, 3_000, 1_000))
def test_streaming_equals_offline(start: int) -> None:
    """Any interleaving, batch borders, crashes and idle advances: the audit finds nothing to say."""
    for seed in range(start, start + 1_000):
        assert not differences(seed), (seed, differences(seed))
