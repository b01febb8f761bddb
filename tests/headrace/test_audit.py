"""The audit against the real streams loop: nothing to say when all is well, the exact record when one is not."""

import contextlib
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import pytest
from confluent_kafka import TopicPartition
from msgspec.structs import replace

from contract.errors import RefusedError
from contract.interchange import locate, merged
from contract.kafka import admin, committed, create_topics, end_offsets, produce, producer, read_to_end
from contract.messages import (
    Click,
    Exposure,
    History,
    Outcome,
    Popularity,
    RankingDrop,
    Sample,
    SampleRecord,
    decoder,
    encode,
    encode_json,
)
from contract.settings import Settings, environment_of
from headrace import audit_slices
from headrace.audit import audit, differences
from headrace.audit_compare import Check
from headrace.process import wait_until
from tests.conftest import SettingsFactory

EXAMPLE = Path(__file__).parents[2] / "examples" / "kuairand"
DAY_MS = 86_400_000
DONE_S = 90


def _lag(settings: Settings) -> int:
    names = [settings.names.topic(t) for t in ("exposures", "clicks", "ranking-drops", "profiles")]
    if settings.join.mode == "clicks-only":
        names = names[1:]
    places = [TopicPartition(name, p) for name in names for p in range(4)]
    ends = end_offsets(admin(settings.kafka), places, committed=True)
    found = committed(settings.kafka, settings.names.group("streams"), places)
    read = {(c.topic, c.partition): max(0, c.offset) for c in found}
    return sum(end - read[place] for place, end in ends.items())


@contextlib.contextmanager
def _streams(settings: Settings) -> Iterator[None]:
    """The streams role as a process of its own, until the block ends."""
    program = "from contract.settings import load; from streams import app; app.run(load())"
    environment = {**os.environ, **environment_of(settings), "HEADRACE_MODEL__HISTORY_DECAYS": "[0.6,0.9]"}
    child = subprocess.Popen([sys.executable, "-c", program], env=environment)
    try:
        yield
        assert child.poll() is None
    finally:
        child.terminate()
        child.wait(30)


def _wait_until_read(settings: Settings) -> None:
    """Wait until streams has read everything and made its idle advances."""
    assert wait_until(lambda: _lag(settings) == 0, DONE_S)
    time.sleep(3 * settings.join.idle_timeout_ms / 1000)


def _produce_first_day(settings: Settings) -> int:
    """The example's first day, and between its events what is dead-lettered or repeated; a third without request_id."""
    create_topics(settings)
    rnd = random.Random(5)
    target = producer(settings.kafka)
    names = settings.names
    exposures, clicks, drops = (names.topic(t) for t in ("exposures", "clicks", "ranking-drops"))
    day = list(merged(locate(EXAMPLE)))
    day = list(takewhile(lambda line: line.message.ts_ms < day[0].message.ts_ms + DAY_MS, day))
    for line in day:
        message, topic = line.message, names.topic(line.topic)
        assert isinstance(message, Exposure | Click)
        key, value = message.user_id.encode(), line.value
        if isinstance(message, Click) and rnd.random() < 0.3:
            value = encode_json(Click(message.user_id, message.item_id, message.ts_ms, message.action))
        produce(target, topic, value, key)
        if (dice := rnd.random()) < 0.02:
            produce(target, topic, value, key)  # a repeat
        elif dice < 0.03:
            produce(target, topic, b'{"user_id":', key)  # broken
        elif dice < 0.04:
            late = Click(message.user_id, "i", message.ts_ms - 2 * settings.join.lateness_ms, "like", "none")
            produce(target, clicks, encode_json(late), key)
        elif dice < 0.05:
            produce(target, clicks, encode_json(Click(message.user_id, "i", 1 << 52)), key)  # ahead
        elif dice < 0.06:
            produce(target, exposures, encode_json(Exposure("r", "someone", message.ts_ms, ["i"])), b"other key")
        elif dice < 0.08:
            produce(target, drops, encode_json(RankingDrop(message.user_id, message.ts_ms, ["x", "y"])), key)
        elif dice < 0.085:
            produce(target, drops, b"[]", key)
    target.flush()
    return len(day)


def _by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.what: check for check in checks}


@pytest.fixture
def day(settings: SettingsFactory) -> Settings:
    """Settings under which streams has read the example's first day."""
    made = settings(**{"join.lateness_ms": 600_000})
    assert _produce_first_day(made) > 10_000
    with _streams(made):
        _wait_until_read(made)
    return made


def test_a_whole_day_agrees_and_each_corruption_is_named(day: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """No difference on what streams really wrote, in one slice or in many; then one per planted fault and no more."""
    seen: list[tuple[int, int]] = []
    checks = audit(day, lambda *at: seen.append(at))
    assert [(c.what, c.differences, c.examples) for c in checks] == [(c.what, 0, []) for c in checks]
    assert all(check.found > 0 for check in checks), checks
    assert seen[-1][0] == seen[-1][1] > 0
    monkeypatch.setattr(audit_slices, "SLICE_EVENTS", 1_000)
    assert audit(day) == checks

    samples = list(read_to_end(day.kafka, day.names.topic("samples"), [0]))
    sample = next(m for m in samples if isinstance(decoder(SampleRecord).decode(m.value() or b""), Sample))
    other = decoder(SampleRecord).decode(sample.value() or b"")
    outcome_at = next(iter(read_to_end(day.kafka, day.names.topic("outcomes"), [1])))
    outcome: Outcome = decoder(Outcome).decode(outcome_at.value() or b"")
    history_at = next(iter(read_to_end(day.kafka, day.names.topic("histories"), [2])))
    letter = next(iter(read_to_end(day.kafka, day.names.topic("clicks.dlq"), [0, 1, 2, 3])))
    target = producer(day.kafka)

    def plant(topic: str, partition: int, key: bytes | None, value: bytes, **more: object) -> None:
        produce(target, day.names.topic(topic), value, key, partition=partition, **more)

    plant("samples", 0, sample.key(), sample.value() or b"")
    plant("samples", 0, sample.key(), encode(replace(other, request_id="never")))
    plant("outcomes", 3, outcome_at.key(), encode(Outcome(outcome.user_id, "x", 1, outcome.items, 1 << 40)))
    plant("histories", 2, history_at.key(), encode(History([])))
    plant("popularity", 1, b"i", encode(Popularity(1, 2, 0.0, 0.0, 0)))
    plant("clicks.dlq", 0, letter.key(), letter.value() or b"", headers=letter.headers())
    target.flush()
    found = _by_name(audit(day))
    assert (found["samples"].duplicated, found["samples"].extra, found["samples"].differences) == (1, 1, 2)
    assert (found["outcomes"].extra, found["outcomes"].differences) == (1, 1)
    assert (found["histories"].different, found["histories"].differences) == (1, 1)
    assert found["popularity"].differences == 1
    assert (found["dead letters"].duplicated, found["dead letters"].differences) == (1, 1)
    assert found["hard negatives"].differences == 0
    assert any("never" in text for text in found["samples"].examples)
    assert differences(list(found.values())) == 6


def test_clicks_only_and_deleted_users(settings: SettingsFactory) -> None:
    """Click-only mode is audited by its own rules; the history of a deleted user is not held against streams."""
    made = settings(**{"join.mode": "clicks-only"})
    create_topics(made)
    target = producer(made.kafka)

    def click(numbers: range) -> None:
        for n in numbers:
            made_click = Click(f"u{n % 50}", f"i{n % 7}", 1_650_000_000_000 + n * 1_000)
            produce(target, made.names.topic("clicks"), encode_json(made_click), made_click.user_id.encode())
        target.flush()

    with _streams(made):
        click(range(3_000))
        _wait_until_read(made)
        produce(target, made.names.topic("profiles"), None, b"u7")
        target.flush()
        _wait_until_read(made)
        click(range(3_000, 3_200))
        _wait_until_read(made)
    found = _by_name(audit(made))
    assert [(c.what, c.differences, c.examples) for c in found.values()] == [(c, 0, []) for c in found]
    assert found["samples"].found == 3_200
    assert found["outcomes"].found == found["dead letters"].found == 0
    assert found["histories"].expected == 49


def test_it_says_what_it_cannot_audit(settings: SettingsFactory) -> None:
    """Topics that do not exist yet, and logs whose beginning is gone, are refused with what to do."""
    made = settings()
    with pytest.raises(RefusedError, match=r"nothing to audit in namespace live: there is no topic .*exposures"):
        audit(made)
    create_topics(made)
    place = TopicPartition(made.names.topic("clicks"), 2)
    target = producer(made.kafka)
    for _ in range(5):
        produce(target, place.topic, b"{}", b"k", partition=2)
    target.flush()
    client = admin(made.kafka)
    for future in client.delete_records([TopicPartition(place.topic, 2, 3)]).values():
        future.result(10)
    with pytest.raises(RefusedError, match=r"clicks-2 begins at offset 3: retention"):
        audit(made)
