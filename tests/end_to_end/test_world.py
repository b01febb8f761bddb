"""A small world whose taste swaps half-way, seen only through Kafka and HTTP."""

import random
from collections.abc import Iterator
from pathlib import Path

from contract.messages import Click, Exposure, Item
from tests.conftest import SettingsFactory
from tests.end_to_end.stack import Stack, running

USERS, ITEMS, SHOWN = 40, 60, 12
START_MS = 1_700_000_000_000
MINUTE_MS = 60_000


def likes(user: int, item: int, *, swapped: bool) -> bool:
    """Even users like even items; after the swap, odd ones."""
    return (user + item) % 2 == (1 if swapped else 0)


def life(requests: int, first: int, *, swapped: bool) -> Iterator[Exposure | Click]:
    """One request a minute: a random user sees random items and clicks what the user likes."""
    rng = random.Random(first)
    for n in range(first, first + requests):
        user, ts_ms = rng.randrange(USERS), START_MS + n * MINUTE_MS
        shown = rng.sample(range(ITEMS), SHOWN)
        yield Exposure(f"r{n}", f"u{user}", ts_ms, [f"i{item}" for item in shown])
        for item in shown:
            if likes(user, item, swapped=swapped):
                yield Click(f"u{user}", f"i{item}", ts_ms + 1_000 + item, request_id=f"r{n}")


def recall_at_20(stack: Stack, *, swapped: bool) -> float:
    """Share of 20 candidates that the user likes, over all users."""
    hits = 0
    for user in range(USERS):
        answer = stack.get(f"/recall/u{user}?k=20&exclude_seen=none")
        hits += sum(likes(user, int(c["item"][1:]), swapped=swapped) for c in answer["candidates"])
    return hits / (20 * USERS)


def test_taste_swaps_and_recall_recovers(settings: SettingsFactory, tmp_path: Path) -> None:
    """Recall rises with the clicks, is wrong right after tastes swap, and recovers without a restart."""
    # A burst of days in a second: on a busy machine a short idle time-out would close windows under way.
    quiet = {"join.idle_timeout_ms": 5_000}
    world = settings(**{"train.batch": 64, "full.min_samples": 100, "model.dim": 16, **quiet})
    with running(world, tmp_path) as stack:
        stack.send(Item(f"i{n}", START_MS) for n in range(ITEMS))
        half = list(life(900, 0, swapped=False))
        stack.send(half)
        clicks = sum(isinstance(event, Click) for event in half)
        stack.until("first half learned", lambda: stack.learned() >= clicks * 0.98, 90)
        before = recall_at_20(stack, swapped=False)
        wrong = recall_at_20(stack, swapped=True)
        stack.send(life(900, 900, swapped=True))
        stack.until("second half learned", lambda: stack.learned() >= 2 * clicks * 0.95, 90)
        after = recall_at_20(stack, swapped=True)
        status = stack.answer("status", "--json")
        stack_samples = stack.learned()
    assert before > 0.8
    assert wrong < 0.2
    assert after > 0.8
    assert status["samples"] == stack_samples
