"""Dead letters go back to their raw topic, each once."""

import json
from typing import cast

import pytest
from confluent_kafka import Message
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from contract import kafka
from contract.errors import BadInputError, UnreachableError
from contract.messages import Click, Exposure
from contract.settings import Settings
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


def exposure(user: str, ts_ms: int, request: str = "r1", items: int = 1) -> bytes:
    """A raw exposure."""
    shown = [f"i{n}" for n in range(1, items + 1)]
    return json.dumps({"request_id": request, "user_id": user, "ts_ms": ts_ms, "items": shown}).encode()


def resent(settings: Settings, topic: str) -> list[Message]:
    """Records of a raw topic that a replay sent."""
    return [m for m in records(settings, topic) if replay.REPLAYED in dict(said(m))]


def said(message: Message) -> list[tuple[str, bytes]]:
    """Headers of a record, in order."""
    return cast("list[tuple[str, bytes]]", message.headers() or [])


def alter(settings: Settings, topic: str, name: str, value: str) -> None:
    """Change one setting of a topic."""
    client = kafka.admin(settings.kafka)
    entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, settings.names.topic(topic), incremental_configs=[entry])
    client.incremental_alter_configs([resource])[resource].result(10)
    asked = ConfigResource(ResourceType.TOPIC, settings.names.topic(topic))
    wait(lambda: client.describe_configs([asked])[asked].result(10)[name].value == value)


@pytest.mark.parametrize("key", [None, b"somebody else"])
def test_a_producer_without_our_key_is_put_right(settings: SettingsFactory, key: bytes | None) -> None:
    """What lay on a wrong partition under no key or a foreign one goes to its user's, and is not refused once more.

    Headers of its own are kept, also where a name stands twice.
    """
    made = settings(**SHORT, **{"join.idle_timeout_ms": 60_000})
    kafka.create_topics(made)
    home = kafka.partition_of(b"u1", PARTITIONS)
    producer, headers = kafka.producer(made.kafka), [("trace", b"1"), ("span", b"x"), ("trace", b"2")]
    more = {"partition": (home + 1) % PARTITIONS, "headers": headers}
    kafka.produce(producer, made.names.topic("exposures"), exposure("u1", START_MS), key, **more)
    producer.flush(10)
    send(made, iter([("clicks", Click("u1", "i1", START_MS + 1, request_id="r1"))]))
    with worker(made):
        wait(lambda: caught_up(made))
    assert [reason for _, _, reason in dead_letters(made, "exposures")] == ["wrong_partition"]
    assert replay.execute(made, "exposures").resend == {"wrong_partition": 1}
    with worker(made):
        wait(lambda: caught_up(made))
    assert [reason for _, _, reason in dead_letters(made, "exposures")] == ["wrong_partition"]
    assert same_as_offline(made)["samples"] == 1
    (found,) = resent(made, "exposures")
    assert (found.partition(), found.key(), found.value()) == (home, b"u1", exposure("u1", START_MS))
    assert said(found) == [*headers, (replay.REPLAYED, b"1")]


def test_late_is_judged_where_a_record_goes_to(settings: SettingsFactory) -> None:
    """Two letters from each other's partitions, as old as each other: late is the one whose own partition is far on."""
    made = settings(**SHORT)
    kafka.create_topics(made)
    homes = {f"u{n}": kafka.partition_of(f"u{n}".encode(), PARTITIONS) for n in range(40)}
    ahead, behind = "u1", next(user for user, home in homes.items() if home != homes["u1"])
    send(made, iter([("exposures", Exposure("r2", ahead, START_MS + MINUTE_MS, ["i1"]))]))
    producer = kafka.producer(made.kafka)
    for user, astray in ((ahead, behind), (behind, ahead)):
        kafka.produce(producer, made.names.topic("exposures"), exposure(user, START_MS), None, partition=homes[astray])
    producer.flush(10)
    with worker(made):
        wait(lambda: caught_up(made))
    dry = replay.plan(made, "exposures")
    assert (dry.resend, dry.late) == ({"wrong_partition": 2}, {"wrong_partition": 1})
    assert replay.execute(made, "exposures").late == dry.late
    with worker(made):
        wait(lambda: caught_up(made))
    reasons = [reason for _, _, reason in dead_letters(made, "exposures")]
    assert sorted(reasons) == ["late", "wrong_partition", "wrong_partition"]
    assert {m.key(): m.partition() for m in resent(made, "exposures")} == {
        user.encode(): homes[user] for user in (ahead, behind)
    }


def test_what_grows_over_the_limit_is_skipped_and_said(
    settings: SettingsFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    """A letter that the raw topic would refuse with its headers counts as cut; the others of its batch go."""
    made = settings(**SHORT, **{"join.idle_timeout_ms": 60_000})
    kafka.create_topics(made)
    producer, home = kafka.producer(made.kafka), kafka.partition_of(b"u1", PARTITIONS)
    large = exposure("u1", START_MS, "r2", items=200)
    for value in (exposure("u1", START_MS), large, exposure("u1", START_MS, "r3")):
        kafka.produce(producer, made.names.topic("exposures"), value, None, partition=(home + 1) % PARTITIONS)
    producer.flush(10)
    with worker(made):
        wait(lambda: caught_up(made))
    alter(made, "exposures", "max.message.bytes", str(len(large) + 10))
    dry = replay.plan(made, "exposures")
    assert (dry.resend, dry.cut) == ({"wrong_partition": 2}, {"wrong_partition": 1})
    line = capsys.readouterr().err.strip()
    assert f"exposures.dlq-{(home + 1) % PARTITIONS}@1 is not re-sent" in line
    assert str(len(large) + 10) in line
    assert "\n" not in line
    assert replay.execute(made, "exposures")[1:] == dry[1:]
    assert [m.value() for m in resent(made, "exposures")] == [exposure("u1", START_MS), exposure("u1", START_MS, "r3")]


def test_items_that_kafka_does_not_take_are_still_to_be_sent(settings: SettingsFactory) -> None:
    """Without a transaction the offsets are committed only once every record is acknowledged: else an error, no loss.

    They go under their item_id; a deletion, which has no value, under the key it came with.
    """
    made = settings(**{"kafka.partitions": PARTITIONS})
    kafka.create_topics(made)
    producer = kafka.producer(made.kafka)
    item, large = (json.dumps({"item_id": "i1", "ts_ms": n, "features": {"a": "b" * n}}).encode() for n in (1, 9_000))
    about = [("__connect.errors.exception.class.name", b"broken")]
    for key, value in ((None, large), (b"foreign", item), (b"i2", None)):
        kafka.produce(producer, made.names.topic("items.dlq"), value, key, partition=0, headers=about)
    producer.flush(10)
    alter(made, "items", "max.message.bytes", "5000")

    def smaller(_: object) -> None:  # said of the large one; from here on the broker refuses the other two as well
        alter(made, "items", "max.message.bytes", "60")

    with pytest.raises(UnreachableError, match=r"did not take 2 of 2 dead letters .* still to be re-sent"):
        replay.execute(made, "items", smaller)
    alter(made, "items", "max.message.bytes", "5000")
    sent = replay.execute(made, "items")
    assert (sent.resend, sent.cut) == ({"broken": 2}, {"broken": 1})
    again = replay.execute(made, "items")
    assert (again.resend, again.cut) == ({}, {})
    assert sorted((m.key(), m.value()) for m in resent(made, "items")) == [(b"i1", item), (b"i2", None)]


def test_no_such_topic(settings: SettingsFactory) -> None:
    """Only raw topics have dead letters."""
    with pytest.raises(BadInputError, match="wanted one of exposures"):
        replay.plan(settings(), "samples")
