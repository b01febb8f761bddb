"""The trainer as a process on a real Kafka: what it reads is put there, what it writes is read back."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from typing import IO, Any

import pytest
from confluent_kafka import TopicPartition

from contract import kafka
from contract.messages import Item, Marker, Sample, SampleRecord, User, decoder, encode
from contract.settings import Settings, environment_of
from contract.updates import Assembler, Update, decode_chunk
from tests.trainer.world import START_MS

decode_record = decoder(SampleRecord).decode
PARTITIONS = 4
WAIT_S = 90
RUNNING: list[subprocess.Popen[bytes]] = []
COMMAND = [sys.executable, "-c", "from contract.settings import load; from trainer.train import run; run(load())"]


def started(settings: Settings, crash_point: str = "", log: IO[bytes] | None = None) -> subprocess.Popen[bytes]:
    """A trainer, which may have to die at a kill point, and whose log may go to a file."""
    environment = {**os.environ, **environment_of(settings), "CRASH_POINT": crash_point}
    process = subprocess.Popen(COMMAND, env=environment, stderr=log, stdout=log)
    RUNNING.append(process)
    return process


def stopped(process: subprocess.Popen[bytes], number: int = signal.SIGTERM) -> int:
    """Send a signal and give the exit code."""
    process.send_signal(number)
    return process.wait(30)


def put(settings: Settings, records: Iterable[Sample], *, idle: bool = False) -> None:
    """Write samples as streams does: by partition, in one transaction, with markers behind them."""
    target = kafka.producer(settings.kafka, transactional_id=f"{settings.topic_prefix}put")
    target.init_transactions(10)
    target.begin_transaction()
    progress: dict[int, int] = {}
    topic = settings.names.topic("samples")
    for sample in records:
        partition = kafka.partition_of(sample.user_id.encode(), PARTITIONS)
        kafka.produce(target, topic, encode(sample), sample.user_id.encode(), partition=partition)
        progress[partition] = sample.ts_ms
    for partition, ts_ms in progress.items():
        kafka.produce(target, topic, encode(Marker(ts_ms, idle)), None, partition=partition)
    target.commit_transaction(10)


def put_features(settings: Settings) -> None:
    """The world's catalogue and profiles."""
    target = kafka.producer(settings.kafka)
    for item in range(60):
        record = encode(Item(f"i{item}", START_MS, {"tag": f"t{item % 7}"}))
        kafka.produce(target, settings.names.topic("catalogue"), record, f"i{item}".encode())
    for user in range(30):
        record = encode(User(f"u{user}", START_MS, {"age": user % 5}))
        kafka.produce(target, settings.names.topic("profiles"), record, f"u{user}".encode())
    assert target.flush(10) == 0


def updates(settings: Settings) -> list[Update]:
    """Every whole update that stands on the topic."""
    assembler = Assembler()
    found = []
    for message in kafka.read_to_end(settings.kafka, settings.names.topic("updates"), [0]):
        value = message.value()
        if value and (whole := assembler.add(decode_chunk(bytes(value)))):
            found.append(whole)
    return found


def lag(settings: Settings) -> int:
    """Lag of the trainer's group as a lag tool sees it."""
    topic = settings.names.topic("samples")
    at = [TopicPartition(topic, p) for p in range(PARTITIONS)]
    ends = kafka.end_offsets(kafka.admin(settings.kafka), at, committed=True)
    reader = kafka.consumer(settings.kafka, settings.names.group("trainer"))
    try:
        return sum(ends[topic, c.partition] - max(c.offset, 0) for c in reader.committed(at, 10))
    finally:
        reader.close()


def until(what: Callable[[], Any]) -> None:
    """Wait for something; fails after WAIT_S."""
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end:
        if what():
            return
        time.sleep(0.2)
    pytest.fail("did not happen in time")
