"""Does memory stay bounded? Exposures that nobody clicks pass through the join: RSS at the end against after a window.

    core   streams.join alone, fed as the loop feeds it
    loop   the whole worker on a Kafka of its own: reading, closing windows, outcomes, counts, histories, commits

Event time runs so that one window holds `--window-events` exposures. "After a window" is when the first of them have
been read, closed, forgotten (window + 2 x lateness after they were shown: JOIN.md) and the transaction that says so is
committed; until then the state only fills. The loop's size at every window count of `AT_WINDOWS` is printed as well,
that of the half-filled state among them. Users and items are bounded sets, for counts and
histories are kept for good, and so few that all histories are full within a window. A little traffic on `clicks`
(orphans of a few users) keeps event time moving there too.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import psutil
from confluent_kafka import TopicPartition

from benchmarks.local_stack import own_kafka
from contract import kafka, log
from contract.messages import Click, Exposure, encode_json
from contract.settings import Settings, environment_of, load
from streams.join import Join
from streams.processor import MAX_EVENTS, Processor, rules_of

PARTITIONS = 4
START_MS = 1_700_000_000_000
USERS, ITEMS, CLICKERS = 5_000, 5_000, 64
CLICK_EVERY = 50
TAKE_EVERY = 5_000
AT_WINDOWS = (1, 1.5, 2, 3, 5, 10, 20, 50)
TARGET = 1.2


def stream(events: int, step_us: int) -> Iterator[tuple[str, Exposure | Click]]:
    """Exposures in event time, none of them clicked; now and then a click on something else."""
    for n in range(events):
        ts_ms = START_MS + n * step_us // 1_000
        user = f"u{n * 7_919 % USERS}"
        yield "exposures", Exposure(f"r{n}", user, ts_ms, [f"i{(n * 31 + k) % ITEMS}" for k in range(5)])
        if n % CLICK_EVERY == 0:
            yield "clicks", Click(f"c{n // CLICK_EVERY % CLICKERS}", "i0", ts_ms, request_id="none")


def rss_mb() -> float:
    """Resident size of this process, MB."""
    return float(psutil.Process().memory_info().rss / 1e6)


def filled(window_events: int, settings: Settings) -> int:
    """Events after which as many exposures are forgotten as come, the transaction of the first included."""
    join = settings.join
    return window_events * (join.window_ms + 2 * join.lateness_ms) // join.window_ms + MAX_EVENTS


def core(events: int, window_events: int, settings: Settings) -> dict[str, Any]:
    """Feed the core; RSS after one window (and its lateness) and at the end."""
    join = Join(rules_of(settings))
    step_us = settings.join.window_ms * 1_000 // window_events
    offsets = {"exposures": 0, "clicks": 0}
    after_window, warm = 0.0, filled(window_events, settings)
    for n, (topic, event) in enumerate(stream(events, step_us)):
        offset, arrival_ms = offsets[topic], event.ts_ms + 1
        offsets[topic] += 1
        if isinstance(event, Exposure):
            join.exposure(offset, arrival_ms, event, None)
        else:
            join.click(offset, arrival_ms, event, None)
        if n % TAKE_EVERY == 0:
            join.take()
            join.commit()
        if n == warm:
            after_window = rss_mb()
    join.take()
    return {"after_window_mb": round(after_window), "end_mb": round(rss_mb())}


def loop(events: int, window_events: int, settings: Settings) -> dict[str, Any]:
    """Run the worker while the stream is produced; the same two sizes."""
    kafka.create_topics(settings)
    command = [sys.executable, "-m", "benchmarks.bench_memory", "--work"]
    worker = subprocess.Popen(command, env={**os.environ, **environment_of(settings)}, stdin=subprocess.PIPE)
    step_us = settings.join.window_ms * 1_000 // window_events
    producing = threading.Thread(target=_produce, args=(settings, events, step_us))
    producing.start()
    places = [TopicPartition(settings.names.topic("exposures"), p) for p in range(PARTITIONS)]
    after_window = peak = 0.0
    warm, at_windows = filled(window_events, settings), dict[str, int]()
    process = psutil.Process(worker.pid)
    began = time.monotonic()
    while True:
        time.sleep(0.5)
        found = kafka.committed(settings.kafka, settings.names.group("streams"), places)
        done = sum(max(0, at.offset) for at in found)
        size = process.memory_info().rss / 1e6
        peak = max(peak, size)
        if not after_window and done >= warm:
            after_window = size
        for windows in AT_WINDOWS:
            if done >= windows * window_events:
                at_windows.setdefault(str(windows), round(size))
        if done >= events:
            break
        assert worker.poll() is None, "the worker ended"
    producing.join()
    took_s, size = time.monotonic() - began, process.memory_info().rss / 1e6
    assert worker.stdin is not None
    worker.stdin.close()
    worker.wait(60)
    return {
        "after_window_mb": round(after_window),
        "end_mb": round(size),
        "peak_mb": round(peak),
        "mb_at_windows": at_windows,
        "events_per_s": round(events / took_s),
    }


def _produce(settings: Settings, events: int, step_us: int) -> None:
    target = kafka.producer(settings.kafka, linger_ms=50)
    for topic, event in stream(events, step_us):
        kafka.produce(target, settings.names.topic(topic), encode_json(event), event.user_id.encode())
        target.poll(0)
    target.flush()


def work() -> None:
    """One worker until standard input ends."""
    settings, ending = load(), threading.Event()
    log.set_up("streams", "error")

    def wait() -> None:
        sys.stdin.read()
        ending.set()

    threading.Thread(target=wait, daemon=True).start()
    Processor(settings, PARTITIONS, 0, ending).run()


def main() -> None:
    """Print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--window-events", type=int, default=200_000, help="exposures of one window")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.work:
        work()
        return
    told: dict[str, Any] = {"bench": "memory", "events": asked.events, "window_events": asked.window_events}
    with own_kafka(kafka__partitions=PARTITIONS, log_level="error") as settings:
        told["loop"] = loop(asked.events, asked.window_events, settings)
        told["core"] = core(asked.events, asked.window_events, settings)
    for part in ("loop", "core"):
        told[part]["growth"] = round(told[part]["end_mb"] / told[part]["after_window_mb"], 3)
    told |= {"target": TARGET, "met": all(told[part]["growth"] <= TARGET for part in ("loop", "core"))}
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
