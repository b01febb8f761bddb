"""What does exactly once cost? The streams loop as it is, against the same loop at least once; rounds take turns.

    exactly once    records and offsets in one transaction
    at least once   the same records by an idempotent producer, flushed, then the offsets committed

Both read the same raw topics, each round in a namespace and a process of its own. CPU is the worker's, librdkafka's
threads included; the broker's is not.
"""

import argparse
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from confluent_kafka import Consumer, TopicPartition

from benchmarks.local_stack import own_kafka
from contract import kafka, log
from contract.messages import ACTIONS, Click, Exposure, encode_json
from contract.settings import Settings, environment_of, load
from streams.processor import Processor
from streams.transaction import Part, Transactions

PARTITIONS = 4
START_MS = 1_700_000_000_000
TARGET_PERCENT = 8.0


class AtLeastOnce(Transactions):
    """The same writes without a transaction."""

    def __init__(self, settings: Settings, slot: int, ending: threading.Event) -> None:
        super().__init__(settings, slot, ending)
        self._producer = kafka.producer(settings.kafka, linger_ms=20, queue_buffering_max_messages=1_000_000)

    def open(self) -> None:
        """Nothing to fence."""

    def commit(self, consumer: Consumer, parts: dict[int, Part], offsets: list[TopicPartition]) -> int:
        """Write everything, wait until it is acknowledged, commit the offsets."""
        records = sum(self._write(partition, part) for partition, part in parts.items())
        self._producer.flush()
        consumer.commit(offsets=offsets, asynchronous=False)
        return records


def stream(events: int) -> Iterator[tuple[str, Exposure | Click]]:
    """Exposures of ten items, and clicks on a third of them."""
    draw, now_ms = random.Random(1), START_MS
    for n in range(events * 3 // 4):
        now_ms += draw.randrange(20)
        shown = Exposure(f"r{n}", f"u{draw.randrange(5_000)}", now_ms, [f"i{draw.randrange(3_000)}" for _ in range(10)])
        yield "exposures", shown
        if n % 3 == 0:
            yield (
                "clicks",
                Click(
                    shown.user_id,
                    draw.choice(shown.items),
                    now_ms + draw.randrange(5_000),
                    draw.choice(ACTIONS),
                    shown.request_id,
                ),
            )


def fill(settings: Settings, events: int) -> int:
    """Write the raw topics; how many events."""
    kafka.create_topics(settings)
    target, sent = kafka.producer(settings.kafka, linger_ms=50), 0
    for topic, event in stream(events):
        kafka.produce(target, settings.names.topic(topic), encode_json(event), event.user_id.encode())
        sent += 1
    target.flush()
    return sent


def work(mode: str) -> None:
    """Run one worker until it has committed everything; prints its CPU and wall seconds."""
    settings = load()
    log.set_up("streams", "error")
    kafka.create_topics(settings)
    topics = [settings.names.topic(t) for t in ("exposures", "clicks")]
    places = [TopicPartition(t, p) for t in topics for p in range(PARTITIONS)]
    ends = kafka.end_offsets(kafka.admin(settings.kafka), places)
    ending = threading.Event()
    processor = Processor(settings, PARTITIONS, 0, ending)
    if mode == "at_least_once":
        processor._transactions = AtLeastOnce(settings, 0, ending)  # noqa: SLF001  (the switch of this benchmark)

    def watch() -> None:
        while True:
            with contextlib.suppress(RuntimeError, KeyError):  # the loop changes what is looked at
                committed = {(row["topic"], row["partition"]): row["committed"] for row in processor.lag()}
                if all(committed.get(at, -1) >= end for at, end in ends.items()):
                    break
            time.sleep(0.02)
        ending.set()

    watching = threading.Thread(target=watch)
    cpu, wall = time.process_time(), time.monotonic()
    watching.start()
    processor.run()
    sys.stdout.write(json.dumps({"cpu_s": time.process_time() - cpu, "wall_s": time.monotonic() - wall}) + "\n")


def measure(settings: Settings, mode: str, number: int) -> dict[str, float]:
    """One round in a process of its own."""
    environment = {**os.environ, **environment_of(settings.model_copy(update={"namespace": f"{mode[:2]}{number}"}))}
    command = [sys.executable, "-m", "benchmarks.bench_eos", "--work", mode]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    told: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return told


def main() -> None:
    """Print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5, help="of each kind, after one to warm up")
    parser.add_argument("--work", choices=("exactly_once", "at_least_once"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.work:
        work(asked.work)
        return
    with own_kafka(kafka__partitions=PARTITIONS) as settings:
        events = fill(settings, asked.events)
        rates: dict[str, list[float]] = {"exactly_once": [], "at_least_once": []}
        for number in range(asked.rounds + 1):
            order = list(rates) if number % 2 else list(reversed(rates))
            for mode in order:
                found = measure(settings, mode, number)
                if number:
                    rates[mode].append(events / found["cpu_s"])
    told: dict[str, Any] = {f"{mode}_events_per_cpu_s": round(statistics.median(of)) for mode, of in rates.items()}
    paired = [1 - once / least for once, least in zip(rates["exactly_once"], rates["at_least_once"], strict=True)]
    cost = 100 * statistics.median(paired)
    sys.stdout.write(
        json.dumps(
            {
                "bench": "eos",
                "events": events,
                "rounds": asked.rounds,
                **told,
                "cost_percent": round(cost, 1),
                "spread_percent": [round(100 * min(paired), 1), round(100 * max(paired), 1)],
                "target_percent": TARGET_PERCENT,
                "met": cost <= TARGET_PERCENT,
            }
        )
        + "\n"
    )


if __name__ == "__main__":
    main()
