"""The door: what a raw message must be."""

import msgspec
import pytest

from contract.errors import BadInputError
from contract.messages import (
    MAX_ID_BYTES,
    MAX_ITEMS_SHOWN,
    RAW_TYPES,
    Advance,
    Click,
    Exposure,
    HardNegatives,
    HistoryEntry,
    Marker,
    Sample,
    SampleRecord,
    decode_raw,
    decoder,
    encode,
    encode_json,
    json_schemas,
)

GOOD = b'{"request_id":"r1","user_id":"u","ts_ms":1650812741436,"items":["a","b"],"context":{"tab":"1"}}'
BAD_EXPOSURES = {
    "broken JSON": b'{"request_id":"r1"',
    "not an object": b"[1, 2]",
    "empty": b"",
    "missing field": b'{"request_id":"r1","user_id":"u","ts_ms":1650812741436}',
    "wrong type": b'{"request_id":"r1","user_id":"u","ts_ms":"now","items":["a"]}',
    "float time": b'{"request_id":"r1","user_id":"u","ts_ms":1650812741436.5,"items":["a"]}',
    "number as id": b'{"request_id":"r1","user_id":7,"ts_ms":1650812741436,"items":["a"]}',
    "empty id": b'{"request_id":"r1","user_id":"","ts_ms":1650812741436,"items":["a"]}',
    "long id": GOOD.replace(b'"u"', b'"' + b"u" * (MAX_ID_BYTES + 1) + b'"'),
    "long id in bytes": GOOD.replace(b'"u"', '"{}"'.format("é" * (MAX_ID_BYTES // 2 + 1)).encode()),
    "invalid UTF-8": GOOD.replace(b'"u"', b'"\xff\xfe"'),
    "lone surrogate": GOOD.replace(b'"u"', b'"\\ud800"'),
    "NaN": GOOD.replace(b'"1"', b"NaN"),
    "infinity by overflow": GOOD.replace(b'"1"', b"1e999"),
    "integer beyond 64 bit": GOOD.replace(b'"1"', b"18446744073709551616"),  # would not encode on the way out
    "before 1990": GOOD.replace(b"1650812741436", b"631151999999"),
    "beyond 2^53": GOOD.replace(b"1650812741436", b"9007199254740994"),
    "no items": GOOD.replace(b'["a","b"]', b"[]"),
    "10,000 items": GOOD.replace(b'["a","b"]', msgspec.json.encode([f"i{n}" for n in range(10_000)])),
    "nested feature": GOOD.replace(b'"1"', b'{"deep":1}'),
    "null feature": GOOD.replace(b'"1"', b"null"),
}


@pytest.mark.parametrize("name", BAD_EXPOSURES)
def test_a_bad_exposure_is_refused_with_one_line(name: str) -> None:
    """Everything the issue calls bad input is BadInputError with a one-line reason, never another exception."""
    with pytest.raises(BadInputError) as refused:
        decode_raw(Exposure, BAD_EXPOSURES[name])
    assert str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_reason_says_wanted_got_and_where() -> None:
    """A refusal names the field, what was wanted and what came."""
    with pytest.raises(BadInputError, match=r"Expected `int`, got `str` - at `\$\.ts_ms`"):
        decode_raw(Exposure, BAD_EXPOSURES["wrong type"])


def test_good_messages_pass() -> None:
    """Limits are inclusive, unknown fields are ignored, optional ones have defaults."""
    assert decode_raw(Exposure, GOOD).items == ["a", "b"]
    most = msgspec.json.encode([f"i{n}" for n in range(MAX_ITEMS_SHOWN)])
    assert len(decode_raw(Exposure, GOOD.replace(b'["a","b"]', most)).items) == MAX_ITEMS_SHOWN
    longest = "é" * (MAX_ID_BYTES // 2)
    click = decode_raw(Click, f'{{"user_id":"{longest}","item_id":"i","ts_ms":1650812741436,"new_field":[]}}'.encode())
    assert (click.action, click.request_id, click.context) == ("click", None, {})


def test_an_action_is_one_of_four() -> None:
    """Exposed-not-clicked and other actions cannot enter as clicks."""
    with pytest.raises(BadInputError, match="Invalid enum value 'view'"):
        decode_raw(Click, b'{"user_id":"u","item_id":"i","ts_ms":1650812741436,"action":"view"}')


def test_raw_messages_survive_json() -> None:
    """What is encoded decodes to the same message."""
    exposure = decode_raw(Exposure, GOOD)
    assert decode_raw(Exposure, encode_json(exposure)) == exposure


def test_sample_records_survive_msgpack() -> None:
    """Each kind of record on `samples` decodes to itself through the one union."""
    records: list[SampleRecord] = [
        Sample("u", "r", 5, "i", 6, "like", 2, [HistoryEntry("h", 4, "click")], {"tab": "1"}, 9, 10, 11),
        HardNegatives("u", 5, ["a"], 3),
        Marker(None, idle=True, advances=[Advance(1, 2, 3, "both")]),
    ]
    decode = decoder(SampleRecord)
    assert [decode.decode(encode(record)) for record in records] == records


def test_every_raw_topic_has_a_schema() -> None:
    """`headrace schema` knows each raw topic, and names the required fields."""
    schemas = json_schemas()
    assert schemas.keys() == RAW_TYPES.keys()
    assert schemas["exposures"]["$defs"]["Exposure"]["required"] == ["request_id", "user_id", "ts_ms", "items"]
