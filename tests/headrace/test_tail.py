"""`headrace tail` against a real Kafka: what every kind of topic shows, and which records."""

import itertools
import threading
import time
from typing import Any

import numpy as np
import pytest
from confluent_kafka import Producer

from contract.errors import BadInputError
from contract.kafka import create_topics, dead_letter, produce, producer, read_to_end
from contract.messages import Click, HistoryEntry, Marker, Sample, Served, encode, encode_json
from contract.settings import Settings
from contract.updates import cut, user_sections
from headrace.tail import TailRecord, tail
from tests.conftest import SettingsFactory

DAY = 1_650_000_000_000


@pytest.fixture
def made(settings: SettingsFactory) -> Settings:
    """Settings whose topics exist."""
    made = settings()
    create_topics(made)
    return made


def _send(made: Settings, topic: str, values: list[bytes | None], **more: Any) -> None:
    target = producer(made.kafka)
    for n, value in enumerate(values):
        produce(target, made.names.topic(topic), value, f"k{n}".encode(), **more)
    target.flush()


def _transactional(made: Settings) -> Producer:
    target = producer(made.kafka, transactional_id=made.names.transactional_id("test"))
    target.init_transactions(30)
    return target


def test_raw_records_are_their_json_and_inside_records_name_their_fields(made: Settings) -> None:
    """JSON stays JSON, msgpack arrays become objects, a deletion is null, other bytes are shown as they are."""
    _send(made, "clicks", [encode_json(Click("u", "i", DAY)), b"{broken", b"\xff\xfe"], partition=0)
    first, broken, binary = (record.value for record in tail(made, "clicks"))
    assert first["user_id"] == "u"
    assert broken["undecodable"] == "{broken"
    assert binary["undecodable"] == "base64://4="
    sample = Sample("u", "r", DAY, "i", DAY, "click", 0, [HistoryEntry("h", DAY, "like")], {"tab": "1"}, DAY, 1, 2)
    _send(made, "samples", [encode(sample), encode(Marker(DAY, idle=True))], partition=1)
    shown, marker = (record.value for record in tail(made, "samples"))
    assert (shown["kind"], shown["item_id"], shown["history"]) == (
        "sample",
        "i",
        [{"item_id": "h", "ts_ms": DAY, "action": "like"}],
    )
    assert (marker["kind"], marker["progress_ms"], marker["idle"]) == ("marker", DAY, True)
    _send(made, "histories", [None])
    assert [record.value for record in tail(made, "histories")] == [None]
    _send(made, "control", [encode(Served("live", 3, 2, DAY))])
    assert [record.value["version"] for record in tail(made, "control")] == [3]


def test_updates_show_sizes_not_rows(made: Settings) -> None:
    """A chunk of a model is summarised: its rows are not printed."""
    sections = list(user_sections(["a", "b"], np.ones((2, 4), np.float32), ["gone"], 1_000))
    _send(made, "updates", [encode(chunk) for chunk in cut("delta", 3, 7, sections)])
    (record,) = tail(made, "updates")
    assert record.value == {
        "kind": "delta",
        "version": 3,
        "sequence": 7,
        "chunk": "1/1",
        "bytes": record.value["bytes"],
        "users": 2,
        "deleted": 1,
        "first": ["a", "b"],
    }


def test_a_dead_letter_shows_its_bytes_and_its_reason(made: Settings) -> None:
    """The original bytes as text, and where it came from and why from the headers."""
    _send(made, "clicks", [b"{nonsense"], partition=2)
    (message,) = read_to_end(made.kafka, made.names.topic("clicks"), [2])
    letter = dead_letter(message, "broken", "Expected something else", "door")
    _send(made, "clicks.dlq", [letter.value], headers=letter.headers)
    (record,) = tail(made, "clicks.dlq")
    assert record.value == "{nonsense"
    assert record.headers["exception.class.name"] == "broken"
    assert record.headers["exception.message"] == "Expected something else"
    assert (record.headers["partition"], record.headers["offset"]) == ("2", "0")


def test_the_last_and_the_first_of_all_partitions(made: Settings) -> None:
    """-n counts over all partitions by arrival; from the start it counts from there; a partition can be picked."""
    for n in range(12):
        _send(made, "clicks", [b"%d" % n], partition=n % 4)
        time.sleep(0.005)
    assert [record.value for record in tail(made, "clicks", count=5)] == [7, 8, 9, 10, 11]
    assert [record.value for record in tail(made, "clicks", count=2, partition=1)] == [5, 9]
    assert len(list(tail(made, "clicks", count=3, from_start=True))) == 3
    assert sorted(record.value for record in tail(made, "clicks", count=None, from_start=True)) == list(range(12))
    assert list(tail(made, "clicks", count=0)) == []
    with pytest.raises(BadInputError, match="no topic 'nope'"):
        next(tail(made, "nope"))
    with pytest.raises(BadInputError, match="has partitions 0 to 3, got --partition 4"):
        next(tail(made, "clicks", partition=4))


def test_only_committed_records_are_seen(made: Settings) -> None:
    """Aborted records never show, and the offsets they and the markers take do not cost a shown record."""
    writer = _transactional(made)
    topic = made.names.topic("outcomes")
    for n in range(6):
        for value, finish in ((b"no", writer.abort_transaction), (b"yes%d" % n, writer.commit_transaction)):
            writer.begin_transaction()
            for _ in range(10 if value == b"no" else 1):
                writer.produce(topic, value, b"k", partition=0)
            writer.flush()
            finish(30)
    shown = [record.value["undecodable"] for record in tail(made, "outcomes", count=4)]
    assert shown == ["yes2", "yes3", "yes4", "yes5"]


def test_following_gives_what_comes(made: Settings) -> None:
    """After the last records, each new one as it arrives, none twice."""
    _send(made, "clicks", [b"1"], partition=0)
    found: list[TailRecord] = []

    def follow() -> None:
        found.extend(itertools.islice(tail(made, "clicks", follow=True), 4))

    reader = threading.Thread(target=follow, daemon=True)
    reader.start()
    time.sleep(1)
    for n in (2, 3, 4):
        _send(made, "clicks", [b"%d" % n], partition=n % 4)
    reader.join(30)
    assert [record.value for record in found] == [1, 2, 3, 4]
