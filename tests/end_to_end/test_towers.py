"""The two writings of the serving formulas, torch in the trainer and numpy in the publisher, give the same scores."""

import random
from typing import Any

import numpy as np
import pytest

from contract.messages import HistoryEntry, Sample
from contract.settings import load
from contract.updates import Assembler, Update
from publisher.model import from_snapshot
from publisher.recall import search
from trainer.delta import update
from trainer.epoch import full_update
from trainer.learner import Learner

USERS, ITEMS, NOW_MS = 12, 30, 1_700_000_000_000


def samples(count: int, rng: random.Random) -> list[Sample]:
    """Clicks with histories of every length, contexts known and new."""
    made = []
    for n in range(count):
        past = [HistoryEntry(f"i{rng.randrange(ITEMS)}", NOW_MS - 100 + k, "click") for k in range(rng.randrange(8))]
        context: dict[str, Any] = rng.choice(
            [{}, {"tab": "1"}, {"tab": str(rng.randrange(4)), "hour": rng.randrange(24)}]
        )
        ts_ms = NOW_MS + n
        user, item = f"u{rng.randrange(USERS)}", f"i{rng.randrange(ITEMS)}"
        made.append(Sample(user, f"r{n}", ts_ms, item, ts_ms, "click", 0, past, context, ts_ms, n, n))
    return made


def profile_of(user: int) -> dict[str, Any]:
    """Features of a user; some have none."""
    return {"country": ["BR", "DE", "CN"][user % 3], "age": user * 5, "tags": ["a", "b"]} if user % 4 else {}


@pytest.mark.parametrize(("correction", "hidden"), [("prior", 0), ("prior", 8), ("logq", 0)])
def test_what_is_served_is_what_was_learned(correction: str, hidden: int) -> None:
    """For any user, history, profile and context, the server's scores of all items are the trainer's."""
    flags = {"model.dim": 8, "model.hidden": hidden, "model.correction": correction, "train.batch": 16}
    settings = load(flags)
    learner = Learner(settings.model, settings.train, settings.full, settings.history.length)
    rng = random.Random(hidden)
    for item in range(ITEMS):
        features = {"tag": [f"t{item % 5}", f"t{item % 3}"], "length_ms": item * 1_000}
        learner.state.catalogue(f"i{item}", features if item % 6 else {})
    for user in range(USERS):
        learner.state.profile(f"u{user}", profile_of(user))
    day = samples(96, rng)
    for first in range(0, len(day), 16):
        learner.step(list(day[first : first + 16]))
    full_update(learner, day, [])
    learner.step(list(samples(16, rng)))

    chunks = update("snapshot", 2, 0, learner.state, settings.model, settings.history.length, NOW_MS, 2_000)
    assembler = Assembler()
    (whole,) = [u for u in map(assembler.add, chunks) if isinstance(u, Update)]
    served = from_snapshot(whole, 0, 1_000)
    asked = samples(24, rng)
    batch = learner.batch(asked)
    expected = np.asarray(learner.scores(learner.user_vectors(batch)))  # [B, N]
    user_rows = {
        user: np.frombuffer(section.rows, "<f4").reshape(-1, 8)[n]
        for section in whole.users
        for n, user in enumerate(section.ids)
    }
    for place, sample in enumerate(asked):
        found = [served.catalogue.row(entry.item_id) for entry in reversed(sample.history)]
        rows = [served.catalogue.id_row(row) for row in found if row is not None]
        inputs = served.tower.inputs(
            user_rows.get(sample.user_id), rows, profile_of(int(sample.user_id[1:])), sample.context
        )
        query = served.tower.vectors(inputs[None])[0]
        prior = served.prior
        got = dict(search(served.catalogue, prior.scale, prior.added, prior.best, query, ITEMS, []))
        for item_id, score in got.items():
            assert score == pytest.approx(expected[place, learner.state.items.row_of[item_id]], abs=2e-5)
        assert len(got) == ITEMS
