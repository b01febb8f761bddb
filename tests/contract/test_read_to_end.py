"""Reading a topic to its end, against a real broker."""

import threading
import time

import pytest

from contract import kafka
from contract.errors import UnreachableError
from tests.conftest import SettingsFactory

PATIENCE_S = 3.0


def test_what_was_acknowledged_is_waited_for(settings: SettingsFactory) -> None:
    """Below a given offset everything is read, also what the broker does not show yet; what never comes is an error."""
    made = settings(**{"kafka.partitions": 1})
    kafka.create_topics(made)
    topic, producer = made.names.topic("clicks"), kafka.producer(made.kafka)

    def write() -> None:
        kafka.produce(producer, topic, b"{}", b"k")
        producer.flush(10)

    write()
    assert len(list(kafka.read_to_end(made.kafka, topic, [0]))) == 1
    later = threading.Timer(1.0, write)
    later.start()
    assert len(list(kafka.read_to_end(made.kafka, topic, [0], below={0: 2}))) == 2
    later.join()
    begun, reading = time.monotonic(), kafka.read_to_end(made.kafka, topic, [0], below={0: 3}, patience_s=PATIENCE_S)
    assert [message.offset() for message in (next(reading), next(reading))] == [0, 1]
    with pytest.raises(UnreachableError, match="gives nothing below its end"):
        next(reading)
    assert PATIENCE_S <= time.monotonic() - begun < 10 * PATIENCE_S
