"""Events per CPU second of the transactional join loop, beside a loop that only copies bytes.

Runs alone: starts a Kafka of its own, fills `exposures` and `clicks`, then in turn (interleaved, so that the machine's
moods hit both) reads them with the whole loop, each time in a new namespace, and with the comparator: the same fetch,
one transaction per commit interval with offsets, and every click's bytes produced again, but no decoding, no join, no
state. Prints one JSON line; medians of all rounds.
"""

import argparse
import contextlib
import json
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from contract import kafka, log
from contract.messages import Click, Exposure, encode_json
from contract.settings import Settings, load
from headrace import local_kafka, ports
from headrace.process import wait_until
from streams.processor import Processor

PARTITIONS = 4
START_MS = 1_700_000_000_000
USERS = 20_000
STEP_MS = 100


@contextlib.contextmanager
def broker() -> Iterator[str]:
    """Run a Kafka on a free port for as long as this process lives."""
    with tempfile.TemporaryDirectory() as home:
        port = ports.free()
        command = local_kafka.command(Path(home), port, ports.free(taken=[port]))
        with (Path(home) / "kafka.log").open("wb") as out:
            server = subprocess.Popen(
                [sys.executable, "-m", "headrace.leash", *command],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        try:
            assert wait_until(lambda: ports.answers(port), 60)
            yield f"127.0.0.1:{port}"
        finally:
            assert server.stdin is not None
            server.stdin.close()
            server.wait(30)


def fill(settings: Settings, events: int) -> None:
    """Ten exposures of eight items to three clicks, ten a second of event time: most windows close (200,000: 5.5 h)."""
    draw, producer = random.Random(1), kafka.producer(settings.kafka, linger_ms=50)
    kafka.create_topics(settings)
    shown: list[Exposure] = []
    for n in range(events):
        ts_ms = START_MS + n * STEP_MS
        if n % 13 < 10 or not shown:
            items = [f"item{draw.randrange(10_000)}" for _ in range(8)]
            event: Exposure | Click = Exposure(f"request{n}", f"user{draw.randrange(USERS)}", ts_ms, items)
            shown = [*shown[-200:], event]  # type: ignore[list-item]
            topic = "exposures"
        else:
            seen = draw.choice(shown)
            event = Click(seen.user_id, draw.choice(seen.items), ts_ms, request_id=seen.request_id)
            topic = "clicks"
        kafka.produce(producer, settings.names.topic(topic), encode_json(event), event.user_id.encode())
    producer.flush(60)


def joined(settings: Settings, events: int) -> tuple[float, float]:
    """CPU and wall seconds of the whole loop over all events."""
    ending = threading.Event()
    kafka.create_topics(settings)
    processor = Processor(settings, PARTITIONS, 0, ending)
    thread = threading.Thread(target=processor.run)
    cpu_s, wall_s = time.process_time(), time.monotonic()
    thread.start()

    def done() -> bool:
        rows = processor.lag()
        return sum(max(0, r["committed"]) for r in rows) >= events and not any(r["lag"] for r in rows)

    assert wait_until(done, 120)
    used = time.process_time() - cpu_s, time.monotonic() - wall_s
    ending.set()
    thread.join()
    return used


def copied(settings: Settings, events: int, group: str) -> tuple[float, float]:
    """CPU and wall seconds of the comparator."""
    names = settings.names
    cpu_s, wall_s = time.process_time(), time.monotonic()
    reader = kafka.consumer(settings.kafka, group)
    producer = kafka.producer(settings.kafka, transactional_id=group, linger_ms=20)
    producer.init_transactions(30)
    reader.subscribe([names.topic("exposures"), names.topic("clicks")])
    seen, out, clicks = 0, names.topic("samples"), names.topic("clicks")
    while seen < events:
        producer.begin_transaction()
        until_s = time.monotonic() + settings.streams.commit_interval_ms / 1000
        while time.monotonic() < until_s and seen < events:
            for message in reader.consume(settings.streams.batch_records, 0.05):
                if message.error() is None:
                    seen += 1
                    if message.topic() == clicks:
                        producer.produce(out, message.value(), message.key(), message.partition() or 0)
        at = [p for p in reader.position(reader.assignment()) if p.offset >= 0]
        producer.send_offsets_to_transaction(at, reader.consumer_group_metadata(), 30)
        producer.commit_transaction(30)
    used = time.process_time() - cpu_s, time.monotonic() - wall_s
    reader.close()
    return used


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=7)
    asked = parser.parse_args()
    events, rounds = asked.events, asked.rounds
    results: dict[str, list[tuple[float, float]]] = {"join": [], "copy": []}
    log.set_up("bench", "warning")
    with broker() as address, tempfile.TemporaryDirectory() as data:
        base = {"kafka.bootstrap_servers": address, "data_dir": Path(data), "kafka.partitions": PARTITIONS}
        fill(load(base), events)
        for n in range(rounds):
            made = load({**base, "namespace": f"round{n}"})
            results["join"].append(joined(made, events))
            results["copy"].append(copied(made, events, f"copy{n}"))
    line: dict[str, object] = {"bench": "streams", "events": events, "rounds": rounds, "comparator": "bytes-only copy"}
    for name, used in results.items():
        line[f"{name}_events_per_cpu_s"] = round(events / statistics.median(cpu_s for cpu_s, _ in used))
        line[f"{name}_events_per_s"] = round(events / statistics.median(wall_s for _, wall_s in used))
    print(json.dumps(line))


if __name__ == "__main__":
    main()
