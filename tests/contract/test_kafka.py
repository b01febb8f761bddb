"""The partitioner and the dead letters, without a broker."""

from typing import Any

import pytest

from contract.kafka import DERIVED_MAX_BYTES, MAX_DEAD_LETTER_BYTES, dead_letter, murmur2, partition_of

# From Apache Kafka's UtilsTest.testMurmur2.
JAVA = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


@pytest.mark.parametrize("key", JAVA)
def test_murmur2_is_javas(key: bytes) -> None:
    """Keys go where Java clients put them (sign bit dropped, as Kafka's toPositive does)."""
    assert murmur2(key) == JAVA[key] & 0x7FFFFFFF
    assert 0 <= partition_of(key, 4) < 4


class Record:
    """A plain record with confluent_kafka.Message's read methods (that class cannot be built by hand)."""

    def __init__(self, key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes | None]] | None) -> None:
        self._fields: dict[str, Any] = {"key": key, "value": value, "headers": headers}

    def key(self) -> Any:
        return self._fields["key"]

    def value(self) -> Any:
        return self._fields["value"]

    def headers(self) -> Any:
        return self._fields["headers"]

    def topic(self) -> str:
        return "clicks"

    def partition(self) -> int:
        return 3

    def offset(self) -> int:
        return 17


def test_a_dead_letter_keeps_bytes_and_says_why() -> None:
    """Original key, value and headers stay; Connect's headers say whence and why; old reasons are replaced."""
    old = [("trace", b"t"), ("__connect.errors.stage", b"old"), ("empty", None)]
    letter = dead_letter(Record(b"k", b"\xff{", old), "broken", "Expected `,`", "door")  # type: ignore[arg-type]
    assert (letter.key, letter.value) == (b"k", b"\xff{")
    assert dict(letter.headers) == {
        "trace": b"t",
        "empty": b"",
        "__connect.errors.topic": b"clicks",
        "__connect.errors.partition": b"3",
        "__connect.errors.offset": b"17",
        "__connect.errors.exception.class.name": b"broken",
        "__connect.errors.exception.message": b"Expected `,`",
        "__connect.errors.stage": b"door",
    }


def test_a_dead_letter_always_fits() -> None:
    """Whatever the raw topic took fits the DLQ: what is too long is cut, and the header says how long it was."""
    huge = Record(b"k" * 900_000, b"v" * 5_040_000, [("h", b"x" * 100_000)])
    letter = dead_letter(huge, "broken", "m" * 5_000, "door")  # type: ignore[arg-type]
    assert letter.value is not None
    assert letter.key is not None
    assert len(letter.value) == MAX_DEAD_LETTER_BYTES
    size = len(letter.key) + len(letter.value) + sum(len(k) + len(v) + 10 for k, v in letter.headers)
    assert size < DERIVED_MAX_BYTES
    said = dict(letter.headers)
    assert (said["headrace.cut.value"], said["headrace.cut.key"], said["headrace.cut.headers"]) == (
        b"5040000",
        b"900000",
        b"1",
    )
