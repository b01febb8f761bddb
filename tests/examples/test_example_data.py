"""The committed example is what its README says, and replays without a dead letter."""

from collections import Counter
from pathlib import Path

from contract.interchange import TOPICS, locate, merged, read
from contract.messages import Click, Exposure, Item, User

KUAIRAND = Path(__file__).parents[2] / "examples" / "kuairand"
MAX_BYTES = 4_000_000
WINDOW_MS = 1_800_000


def test_it_is_small_and_whole() -> None:
    """At most 4 MB; every line decodes as at streams' door, in order; the counts are the README's."""
    paths = locate(KUAIRAND)
    assert sum(path.stat().st_size for path in paths.values()) <= MAX_BYTES
    counts = {topic: sum(1 for _ in read(paths[topic], topic)) for topic in TOPICS}
    assert counts == {"items": 7_583, "users": 21_202, "exposures": 91_024, "clicks": 43_013}
    readme = (KUAIRAND / "README.md").read_text()
    assert all(f"{count:,}" in readme for count in counts.values())
    assert "CC BY-SA 4.0" in readme


def test_every_action_answers_its_exposure() -> None:
    """Request ids are unique; each action's item was shown in its request, shortly before; items are distinct."""
    shown: dict[str, Exposure] = {}
    actions: Counter[str] = Counter()
    for line in merged(locate(KUAIRAND)):
        message = line.message
        if isinstance(message, Exposure):
            assert message.request_id not in shown
            assert len(set(message.items)) == len(message.items)
            shown[message.request_id] = message
        elif isinstance(message, Click):
            exposure = shown[message.request_id or ""]
            assert exposure.user_id == message.user_id
            assert message.item_id in exposure.items
            assert 0 < message.ts_ms - exposure.ts_ms < WINDOW_MS
            actions[message.action] += 1
    assert actions == {"click": 41_204, "like": 1_604, "favourite": 129, "share": 76}


def test_every_user_and_item_has_features() -> None:
    """Whoever and whatever occurs in the log is described, at or before the log's start."""
    paths = locate(KUAIRAND)
    items = {m.item_id: m for line in read(paths["items"], "items") if isinstance(m := line.message, Item)}
    users = {m.user_id: m for line in read(paths["users"], "users") if isinstance(m := line.message, User)}
    start_ms = next(merged(paths)).message.ts_ms
    assert max(item.ts_ms for item in items.values()) <= start_ms
    assert max(user.ts_ms for user in users.values()) <= start_ms
    for line in read(paths["exposures"], "exposures"):
        exposure = line.message
        assert isinstance(exposure, Exposure)
        assert exposure.user_id in users
        assert items.keys() >= set(exposure.items)
    assert items["0"].features["tag"] == ["39"]
    assert users["0"].features["onehot_feat0"] == "1"
