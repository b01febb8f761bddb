"""Dead letters go back to their raw topic, each once."""

import json

import pytest

from contract import kafka
from contract.errors import BadInputError
from contract.messages import Click, Exposure
from streams import replay
from tests.conftest import SettingsFactory
from tests.streams.evidence import (
    PARTITIONS,
    SHORT,
    START_MS,
    caught_up,
    dead_letters,
    records,
    same_as_offline,
    send,
    wait,
    worker,
)

MINUTE_MS = 60_000


def test_dead_letters_are_sent_again_once_and_judged_like_any_event(settings: SettingsFactory) -> None:
    """The dry run counts by reason and names what is late by now; nothing is re-sent twice, nothing loops."""
    made = settings(**SHORT, **{"join.idle_timeout_ms": 60_000})
    kafka.create_topics(made)
    producer, topic = kafka.producer(made.kafka), made.names.topic("exposures")
    home = kafka.partition_of(b"u1", PARTITIONS)
    astray = json.dumps({"request_id": "r1", "user_id": "u1", "ts_ms": START_MS, "items": ["i1"]}).encode()
    kafka.produce(producer, topic, astray, b"u1", partition=(home + 1) % PARTITIONS)  # its click waits for it
    kafka.produce(producer, topic, b"not json", b"u1", partition=home)
    producer.flush(10)
    send(made, iter([("clicks", Click("u1", "i1", START_MS + 1, request_id="r1"))]))
    with worker(made):
        wait(lambda: caught_up(made))
    dry = replay.plan(made, "exposures")
    assert (dry.resend, dry.late) == ({"wrong_partition": 1, "broken": 1}, {})
    assert replay.plan(made, "exposures") == dry
    assert replay.execute(made, "exposures.dlq").resend == dry.resend
    assert replay.execute(made, "exposures").resend == {}
    with worker(made):
        wait(lambda: caught_up(made))
    assert sorted(reason for _, _, reason in dead_letters(made, "exposures")) == ["broken", "broken", "wrong_partition"]
    again = replay.plan(made, "exposures")
    assert (again.resend, again.replayed) == ({}, {"broken": 1})
    assert len(list(records(made, "exposures"))) == 4
    assert same_as_offline(made)["samples"] == 1


def test_the_dry_run_counts_what_would_be_late(settings: SettingsFactory) -> None:
    """An event older than its partition's event time allows is counted as late, and the backfill is named."""
    made = settings(**SHORT)
    kafka.create_topics(made)
    events = [Exposure("r2", "u1", START_MS + MINUTE_MS, ["i1"]), Exposure("r1", "u1", START_MS, ["i1"])]
    send(made, iter([("exposures", event) for event in events]))
    with worker(made):
        wait(lambda: caught_up(made))
    dry = replay.plan(made, "exposures")
    assert (dry.resend, dry.late) == ({"late": 1}, {"late": 1})
    assert "backfill" in dry.text


def test_no_such_topic(settings: SettingsFactory) -> None:
    """Only raw topics have dead letters."""
    with pytest.raises(BadInputError, match="wanted one of exposures"):
        replay.plan(settings(), "samples")
