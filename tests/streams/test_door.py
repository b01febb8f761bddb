"""The door: what a raw record must be before the join looks at it."""

import json
from typing import Any

import pytest

from contract.kafka import partition_of
from contract.messages import Click, Exposure
from streams import door
from streams.door import Door, Homes, Refused

PARTITIONS = 4
GOOD: dict[str, Any] = {"user_id": "u1", "item_id": "i1", "ts_ms": 1_700_000_000_000}
HOME = partition_of(b"u1", PARTITIONS)


def bytes_of(**changes: Any) -> bytes:
    """A click as JSON, its text beyond ASCII as UTF-8."""
    return json.dumps({**GOOD, **changes}, ensure_ascii=False).encode()


def refusal(value: bytes | None, partition: int = HOME) -> Refused:
    """What the door says of a click that it refuses."""
    with pytest.raises(Refused) as caught:
        Door(Click, Homes(PARTITIONS)).enter(value, partition)
    return caught.value


def test_a_good_record_enters_as_it_is() -> None:
    """A valid record on its user's partition becomes its event, unknown fields ignored, defaults filled in."""
    event = Door(Click, Homes(PARTITIONS)).enter(bytes_of(new_field=1), HOME)
    assert event == Click("u1", "i1", 1_700_000_000_000, "click", None, {})


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "empty record"),
        (b"", "truncated"),
        (b"\xff\x00", "malformed"),
        (b"[]", "Expected `object`, got `array`"),
        (b'{"user_id": "u1"}', "missing required field `item_id`"),
        (bytes_of(ts_ms="1"), "Expected `int`, got `str` - at `$.ts_ms`"),
        (bytes_of(ts_ms=1_700_000_000), ">= 631152000000"),
        (bytes_of(action="stare"), "Invalid enum value 'stare'"),
        (bytes_of(item_id=""), "length >= 1"),
        (bytes_of(item_id="x" * 257), "length <= 256"),
        (bytes_of(item_id="\u00e9" * 129), "at most 256 UTF-8 bytes, got 258"),
        (json.dumps({**GOOD, "item_id": "\u00e9" * 129}).encode(), "at most 256 UTF-8 bytes, got 258"),
        (bytes_of(context={"text": "x" * door.MAX_EVENT_BYTES}), "at most 2000000 bytes"),
    ],
)
def test_a_broken_record_is_refused_with_what_was_wanted(value: bytes | None, said: str) -> None:
    """Whatever does not decode, misses a field, or is too long is `broken`; the text says what was wanted."""
    refused = refusal(value)
    assert refused.reason == "broken"
    assert said in str(refused)


def test_256_bytes_are_not_too_many() -> None:
    """An id of exactly the limit enters, beyond ASCII as well."""
    longest = "\u00e9" * 128
    assert Door(Click, Homes(PARTITIONS)).enter(bytes_of(item_id=longest), HOME).item_id == longest


@pytest.mark.parametrize("partition", [p for p in range(PARTITIONS) if p != HOME])
def test_a_foreign_partitioner_is_told(partition: int) -> None:
    """A record on a partition that its user does not hash to would never join: refused, with the setting to change."""
    refused = refusal(bytes_of(), partition)
    assert refused.reason == "wrong_partition"
    assert f"Expected partition {HOME}" in str(refused)
    assert "murmur2_random" in str(refused)


def test_homes_are_those_of_the_partitioner_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A remembered home is what Kafka's murmur2 gives, also after the memory was full; it never outgrows its bound."""
    monkeypatch.setattr(door, "MAX_HOMES", 10)
    homes = Homes(PARTITIONS)
    for name in [f"u{n % 37}" for n in range(200)]:
        assert homes[name] == partition_of(name.encode(), PARTITIONS)
        assert len(homes) <= 10


def test_exposures_and_clicks_share_one_memory_of_homes() -> None:
    """Two doors with the same homes judge a user alike."""
    homes = Homes(PARTITIONS)
    shown = json.dumps({"request_id": "r", "user_id": "u1", "ts_ms": 1_700_000_000_000, "items": ["i1"]}).encode()
    assert Door(Exposure, homes).enter(shown, HOME).items == ["i1"]
    assert Door(Click, homes).enter(bytes_of(), HOME).item_id == "i1"
    assert list(homes) == ["u1"]
