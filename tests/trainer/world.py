"""Small made-up worlds for the trainer's tests: even users like even items."""

import numpy as np

from contract.messages import HistoryEntry, Sample
from contract.settings import Full, Model, Train
from trainer.learner import Learner

START_MS = 1_650_844_800_000  # 2022-04-25T00:00:00Z
DAY_MS = 86_400_000
LENGTH = 5


def samples(n: int, *, seed: int = 0, users: int = 40, items: int = 60, gap_ms: int = 60_000) -> list[Sample]:
    """N clicks in time order, `gap_ms` apart, with histories; user and item have the same parity."""
    rng = np.random.default_rng(seed)
    histories: dict[str, list[HistoryEntry]] = {}
    made = []
    for number in range(n):
        user = int(rng.integers(users))
        item = 2 * int(rng.integers(items // 2) * rng.random()) + user % 2
        ts_ms = START_MS + number * gap_ms
        history = histories.setdefault(f"u{user}", [])
        context = {"page": "a" if number % 3 else "b"}
        made.append(
            Sample(
                f"u{user}",
                f"r{number}",
                ts_ms,
                f"i{item}",
                ts_ms,
                "click",
                0,
                history[-LENGTH:],
                context,
                ts_ms + 5,
                number,
                number,
            )
        )
        history.append(HistoryEntry(f"i{item}", ts_ms, "click"))
    return made


def learner(*, known_items: int = 60, known_users: int = 30, **train: float) -> Learner:
    """A small learner whose catalogue and profiles are read."""
    made = Learner(Model(dim=8), Train(**{"batch": 32, "negatives": 16, **train}), Full(), LENGTH)
    features(made, known_items=known_items, known_users=known_users)
    return made


def features(target: Learner, *, known_items: int = 60, known_users: int = 30) -> None:
    """Give a learner the world's catalogue and profiles."""
    for item in range(known_items):
        target.state.catalogue(f"i{item}", {"tag": [f"t{item % 7}", "all"], "length": item})
    for user in range(known_users):
        target.state.profile(f"u{user}", {"age": user % 5})


def learn(target: Learner, taken: list[Sample]) -> None:
    """Step through samples in blocks of the learner's batch."""
    size = target.train.batch
    for n in range(0, len(taken), size):
        target.step(list(taken[n : n + size]))
