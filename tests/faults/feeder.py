"""Sends the stream at a steady rate, whatever the broker does, and counts what the broker has acknowledged."""

import logging
import threading
import time
from collections import Counter
from typing import cast

from confluent_kafka import KafkaError, Message

from contract import kafka
from contract.settings import Settings
from tests.faults.traffic import Sent, Traffic

COMPACTED = ("items", "users")
TICK_S = 0.02
QUIET = logging.getLogger("tests.faults.quiet")  # a broker that is away is no news here
QUIET.setLevel(logging.CRITICAL + 1)
FLUSH_S = 90.0


class Feeder:
    """A thread that sends; `modes` are on until the time (monotonic) that stands behind them."""

    def __init__(self, settings: Settings, traffic: Traffic, rate: float) -> None:
        self._traffic, self._rate, self._topic = traffic, rate, settings.names.topic
        # Never given up while the broker is away, or later records of a partition would overtake.
        self._producer = kafka.producer(
            settings.kafka, message_timeout_ms=0, queue_buffering_max_messages=2_000_000, linger_ms=10, logger=QUIET
        )
        self._ending, self._begun = threading.Event(), 0.0
        self._thread = threading.Thread(target=self._run, name="feeder")
        self.modes: dict[str, float] = {}
        self.sent: Counter[str] = Counter()
        self.acknowledged: Counter[str] = Counter()
        self.ends: dict[tuple[str, int], int] = {}  # offset after the last acknowledged record, by topic and partition
        self.newest: dict[tuple[str, bytes], tuple[int, int]] = {}  # partition, offset last acknowledged, of COMPACTED
        self.failed: list[str] = []

    def start(self) -> None:
        """Send the catalogue, then the stream."""
        for record in self._traffic.catalogue(_now_ms()):
            self._send(record)
        self._begun = time.monotonic()
        self._thread.start()

    def stop(self) -> None:
        """Stop sending; returns when the broker has everything."""
        self._ending.set()
        self._thread.join()
        for record in self._traffic.delayed():
            self._send(record)
        left = self._producer.flush(FLUSH_S)
        self._producer.purge()
        assert not left, f"{left} records were not acknowledged within {FLUSH_S} s"

    def per_s(self, topic: str) -> float:
        """Records of a topic sent in a second, so far."""
        return self.sent[topic] / (time.monotonic() - self._begun)

    def _run(self) -> None:
        begun, events = self._begun, 0
        while not self._ending.is_set():
            now = time.monotonic()
            modes = [mode for mode, until in list(self.modes.items()) if now < until]
            while events < (now - begun) * self._rate:
                records = self._traffic.draw(_now_ms(), modes)
                for record in records:
                    self._send(record)
                events += max(1, len(records))
            self._producer.poll(0)
            time.sleep(TICK_S)

    def _send(self, record: Sent) -> None:
        def delivered(error: KafkaError | None, message: Message) -> None:
            if error is None:
                self.acknowledged[record.topic] += 1
                at = record.topic, cast("int", message.partition())
                offset = cast("int", message.offset())
                self.ends[at] = max(self.ends.get(at, 0), offset + 1)
                if record.topic in COMPACTED and record.key is not None:
                    before = self.newest.get((record.topic, record.key), (at[1], -1))
                    self.newest[record.topic, record.key] = max(before, (at[1], offset))
            else:
                self.failed.append(str(error))

        self.sent[record.topic] += 1
        more = {"partition": record.partition} if record.partition >= 0 else {}
        topic = self._topic(record.topic)
        kafka.produce(self._producer, topic, record.value, record.key, on_delivery=delivered, **more)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
