"""Events per CPU second of the join's core alone: decoding, encoding and Kafka are not in it.

Synthetic log: 300,000 exposures of 10 items and 100,000 clicks of 20,000 users over five windows of event time. The
collector is frozen after the log is made, as its events would otherwise be walked again and again.
"""

import gc
import json
import random
import resource
import time

from contract.messages import Click, Exposure
from streams.join import Join, Rules

RULES = Rules(
    window_ms=1_800_000,
    lateness_ms=300_000,
    max_skew_ms=120_000,
    history_length=20,
    shown_exposures=20,
    half_life_ms=86_400_000,
)
EXPOSURES, USERS, ITEMS, SHOWN = 300_000, 20_000, 10_000, 10
START_MS, STEP_MS, BATCH = 1_700_000_000_000, 30, 50_000  # 2.5 hours in all: five windows
Event = tuple[int, Exposure | Click]


def log_of(without_id: float, seed: int = 1) -> list[Event]:
    """Draw events in arrival order: an exposure every 30 ms, a click on every third, 1 to 600 s later, jittered."""
    rnd = random.Random(seed)
    items = [f"item-{i}" for i in range(ITEMS)]
    events: list[Event] = []
    for number in range(EXPOSURES):
        user, request = f"user-{rnd.randrange(USERS)}", f"request-{number}"
        ts = START_MS + number * STEP_MS - rnd.randrange(2_000)
        shown = rnd.sample(items, SHOWN)
        events.append((ts, Exposure(request, user, ts, shown, {"tab": "1"})))
        if number % 3 == 0:
            at = ts + rnd.randrange(1_000, 600_000)
            events.append(
                (at, Click(user, rnd.choice(shown), at, "click", None if rnd.random() < without_id else request))
            )
    events.sort(key=lambda event: event[0] + rnd.randrange(3_000))
    return events


def run(events: list[Event]) -> tuple[float, dict[str, int], int]:
    """CPU seconds, totals and the longest metadata of a log read in batches of 50,000 events, a commit after each."""
    join, at, longest = Join(RULES), [0, 0], 0
    begin = time.process_time()
    for start in range(0, len(events), BATCH):
        for ts, event in events[start : start + BATCH]:
            if isinstance(event, Exposure):
                join.exposure(at[0], ts + 3_000, event, None)
                at[0] += 1
            else:
                join.click(at[1], ts + 3_000, event, None)
                at[1] += 1
        join.take()
        commit = join.commit()
        longest = max(longest, len(commit.exposures_metadata), len(commit.clicks_metadata))
    return time.process_time() - begin, join.totals, longest


def main() -> None:
    """Print one JSON line."""
    line: dict[str, object] = {"benchmark": "join_core"}
    for name, without_id in (("with_id", 0.0), ("mixed", 0.1), ("without_id", 1.0)):
        events = log_of(without_id)
        gc.collect()
        gc.freeze()
        seconds, totals, longest = min((run(events) for _ in range(3)), key=lambda r: r[0])
        assert totals["samples"] > EXPOSURES / 4, totals
        line[name] = {
            "events": len(events),
            "events_per_cpu_second": round(len(events) / seconds),
            "metadata_chars": longest,
            **totals,
        }
    line["peak_rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps(line))


if __name__ == "__main__":
    main()
