"""A small world of clicks without exposures (news, ratings), seen only through Kafka and HTTP."""

import random
from collections.abc import Iterator
from pathlib import Path

from contract.messages import Click, Item
from tests.conftest import SettingsFactory
from tests.end_to_end.stack import Stack, running

USERS, ITEMS, CLICKS = 20, 40, 800
START_MS = 1_700_000_000_000


def likes(user: int, item: int) -> bool:
    """Even users like even items, odd users odd ones."""
    return (user + item) % 2 == 0


def clicks() -> Iterator[Click]:
    """One click a second: a random user and a random item that the user likes."""
    rng = random.Random(7)
    for n in range(CLICKS):
        user = rng.randrange(USERS)
        item = rng.choice([item for item in range(ITEMS) if likes(user, item)])
        yield Click(f"u{user}", f"i{item}", START_MS + n * 1_000)


def share_liked(stack: Stack) -> float:
    """Share of 10 candidates that the user likes, over all users; chance is a half."""
    liked = 0
    for user in range(USERS):
        answer = stack.get(f"/recall/u{user}?k=10&exclude_seen=none")
        assert answer["degraded"] is None
        assert answer["version"] >= 1
        assert answer["basis"] == ["id", "history"]
        assert len(answer["candidates"]) == 10
        liked += sum(likes(user, int(c["item"][1:])) for c in answer["candidates"])
    return liked / (10 * USERS)


def test_clicks_alone_are_learned(settings: SettingsFactory, tmp_path: Path) -> None:
    """Without exposures every click is one sample, all are learned, and what is recalled fits the users' tastes."""
    world = settings(
        **{"join.mode": "clicks-only", "train.batch": 32, "full.min_samples": 100, "model.dim": 16},
    )
    with running(world, tmp_path) as stack:
        stack.send(Item(f"i{n}", START_MS) for n in range(ITEMS))
        stack.send(clicks())
        stack.until("clicks learned", lambda: stack.learned() >= CLICKS)
        stack.until("clicks served", lambda: stack.get("/version").get("samples") == CLICKS)
        assert stack.learned() == CLICKS
        liked = share_liked(stack)
    assert liked > 0.8
