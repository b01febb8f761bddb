"""Random worlds and plans, seeded: small ts ranges and drifting clocks, because that is where the join breaks first."""

import random
from collections.abc import Callable

from contract.messages import Action, Click, Exposure
from streams.join import Record, Rules, Source
from tests.streams.drive import CLICKS, EXPOSURES, World

RULES = Rules(window_ms=10, lateness_ms=4, max_skew_ms=2, history_length=1, shown_exposures=2, half_life_ms=7)
Case = tuple[World, list[str]]
_WEIGHTS = (  # of x c ix ic ixc commit crash ex ec
    (6, 6, 1, 1, 1, 2, 1, 1, 1),
    (6, 6, 0, 0, 0, 2, 2, 0, 0),
    (3, 3, 1, 1, 2, 3, 3, 1, 1),
    (8, 2, 0, 3, 1, 2, 1, 0, 1),
    (2, 8, 3, 0, 1, 2, 1, 1, 0),
)
_ACTIONS: tuple[Action, ...] = ("click", "click", "like", "share")
_STEPS = ("x", "c", "ix", "ic", "ixc", "commit", "crash", "ex", "ec")


def world_of(rnd: random.Random) -> World:
    """Draw two logs: up to 11 exposures and 14 clicks of one or two users."""
    users = "u" if rnd.random() < 0.6 else "uv"
    requests = "p" if rnd.random() < 0.4 else "pq"
    jumps = rnd.random() < 0.3
    without_id = rnd.choice([0, 0.3, 0.8])
    shown = [["a"], ["a", "b"], ["b"], ["b", "a", "b"]]

    def exposure(ts: int) -> Exposure:
        return Exposure(rnd.choice(requests), rnd.choice(users), ts, rnd.choice(shown), {"tab": rnd.randint(0, 3)})

    def click(ts: int) -> Click:
        request = None if rnd.random() < without_id else rnd.choice(requests)
        action = rnd.choice(_ACTIONS)
        return Click(rnd.choice(users), rnd.choice("aab"), ts, action, request, {"n": rnd.randint(0, 3)})

    gaps = rnd.choice([0, 0, 0.3])
    return World(
        _log(rnd, EXPOSURES, _times(rnd, rnd.randint(0, 9), rnd.choice([0, 0, 3, 10]), jumps), exposure, gaps),
        _log(rnd, CLICKS, _times(rnd, rnd.randint(0, 12), rnd.choice([0, 0, 4, 10]), jumps), click, gaps),
    )


def plan_of(rnd: random.Random) -> list[str]:
    """Draw how a worker goes through the logs."""
    return rnd.choices(_STEPS, rnd.choice(_WEIGHTS), k=rnd.randint(5, 45))


def case_of(seed: int) -> Case:
    """Draw the world and the plan of a seed."""
    rnd = random.Random(seed)
    return world_of(rnd), plan_of(rnd)


def _times(rnd: random.Random, count: int, start: int, jumps: bool) -> list[int]:
    clock, times = start, []
    for _ in range(count):
        clock += rnd.choice([0, 0, 1, 1, 2, 3, 4, 5, 10, 14] if rnd.random() < 0.5 else [0, 0, 1])
        if jumps and rnd.random() < 0.08:
            clock += rnd.choice([20, 24, 50, 1000])
        times.append(clock - rnd.choice([0, 0, 0, 1, 2, 3, 4, 4, 5]))
    return times


def _log(
    rnd: random.Random, source: Source, times: list[int], make: Callable[[int], Exposure | Click], gaps: float
) -> list[Record]:
    rows: list[tuple[int, Exposure | Click | None, str]] = []
    for ts in times:
        arrival = ts + rnd.choice([0, 1, 3, -2] if rnd.random() < 0.93 else [-3, -40])
        refused = rnd.choice(["broken", "wrong_partition", "poison"]) if rnd.random() < 0.04 else ""
        rows.append((arrival, None if refused else make(ts), refused))
    for _ in range(2):
        if rows and rnd.random() < 0.3:
            rows.insert(rnd.randrange(len(rows) + 1), rnd.choice(rows))
    log, offset = [], 0
    for arrival, event, refused in rows:
        offset += rnd.randint(1, 3) if rnd.random() < gaps else 0
        log.append(Record(offset, arrival, event, refused, refused, f"{source}-{offset}"))
        offset += 1
    return log
