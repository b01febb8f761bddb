"""Histories: what a sample sees of its user, what `exclude_seen=shown` sees, and what bounds a message."""

import msgspec

from contract.messages import Click, History, RingEntry, encode
from streams.history import MAX_RING_BYTES, MAX_SHOWN_BYTES, Histories, Holdable

USER = "u"


def click(item: str, ts: int, action: str = "click") -> Click:
    return Click(USER, item, ts, action)  # type: ignore[arg-type]  # a str is shorter to write


def filled(items: str, length: int = 2) -> Histories:
    """Clicks at offsets and ts 0, 1, 2 .. on one-letter items."""
    histories = Histories(length, shown_exposures=2)
    for at, item in enumerate(items):
        histories.click(at, click(item, at))
    return histories


def seen(histories: Histories, offset: int, ts: int) -> str:
    return "".join(entry.item_id for entry in histories.before(USER, offset, ts))


def test_a_history_holds_the_newest_l_strictly_before() -> None:
    """Law: of the ring before the click's offset, those with ts < the exposure's, newest L, oldest first."""
    histories = filled("abcde")
    assert seen(histories, 5, 5) == "de"
    assert seen(histories, 5, 4) == "cd"
    assert seen(histories, 3, 99) == "bc"
    assert seen(histories, 0, 99) == ""
    assert histories.before("nobody", 5, 5) == []


def test_a_history_is_ordered_by_time_then_offset() -> None:
    """Law: newest by (ts, offset), however the clicks came in.

    offset  0    1    2    3
    ts      5 a  1 b  5 c  3 d
    """
    histories = Histories(2, 0)
    for offset, (item, ts) in enumerate([("a", 5), ("b", 1), ("c", 5), ("d", 3)]):
        histories.click(offset, click(item, ts))
    assert seen(histories, 4, 9) == "ac"
    assert seen(histories, 4, 5) == "bd"
    assert seen(histories, 2, 9) == "ba"


def test_an_exact_repeat_in_the_ring_is_not_taken() -> None:
    """Law: same item, action, ts and request among the last 4 L: not taken; older than that: taken again."""
    histories = filled("abcd", length=1)
    histories.click(4, click("a", 0))
    histories.click(5, click("a", 0, action="like"))  # another action: taken, and the first entry leaves the ring
    histories.click(6, click("a", 0))
    history = histories.take()[USER]
    assert history is not None
    assert [entry.offset for entry in history.clicks] == [2, 3, 5, 6]


def test_a_held_click_keeps_its_ring() -> None:
    """Law: while a click is held, the record holds the 4 L entries before it and all since; then 4 L again."""
    histories = filled("abcde", length=1)
    held = Holdable(offset=5, held=True)
    histories.click(5, click("f", 5))
    histories.hold(USER, held)
    for at in range(6, 30):
        histories.click(at, click("z", at))
    history = histories.take()[USER]
    assert history is not None
    assert [entry.offset for entry in history.clicks] == list(range(1, 30))
    assert seen(histories, 5, 99) == "e"
    held.held = False
    histories.release(USER)
    histories.click(30, click("z", 30))
    history = histories.take()[USER]
    assert history is not None
    assert [entry.offset for entry in history.clicks] == [27, 28, 29, 30]


def test_a_bot_cannot_outgrow_a_message() -> None:
    """Law: with ids of 256 bytes, lists of 1,000 items and a click held for ever, the record stays below 1 MB."""
    histories = Histories(200, 200)
    histories.hold(USER, Holdable(offset=0, held=True))
    long = "x" * 250
    for at in range(2_000):
        histories.click(at, Click(USER, f"{long}{at:06}", at, "favourite", f"{long}{at:06}"))
        if at % 100 == 0:
            histories.exposure(USER, at, at, [f"{long}{i:06}" for i in range(1_000)])
    history = histories.take()[USER]
    assert history is not None
    assert len(encode(history)) < 1_000_000
    assert 800 <= len(history.clicks) < 1_000
    assert len(encode(History(history.clicks, []))) <= MAX_RING_BYTES
    assert history.clicks[-1].offset == 1_999
    assert sum(len(i) for s in history.shown for i in s.items) <= MAX_SHOWN_BYTES
    assert history.shown[-1].offset == 1_900


def test_a_bot_with_short_ids_keeps_what_its_held_click_needs() -> None:
    """Law: thousands of clicks later a held click still reads the ring as it stood before it, also after a restore."""
    histories = Histories(10, 0)
    histories.click(0, click("a", 0))
    histories.hold(USER, Holdable(offset=1, held=True))
    for at in range(1, 5_000):
        histories.click(at, click("b", at))
    record = histories.take()[USER]
    assert record is not None
    again = Histories(10, 0)
    again.restore([(USER, record)])
    assert seen(histories, 1, 99) == seen(again, 1, 99) == "a"


def test_shown_holds_the_last_exposures_by_offset() -> None:
    """Law: the items of the user's last exposures; none are kept where the setting is 0."""
    histories = filled("")
    for at in range(5):
        histories.exposure(USER, at, 10 - at, [f"item-{at}"])
    history = histories.take()[USER]
    assert history is not None
    assert [(s.offset, s.items) for s in history.shown] == [(3, ["item-3"]), (4, ["item-4"])]
    none = Histories(2, 0)
    none.exposure(USER, 0, 0, ["a"])
    assert none.take() == {}


def test_a_deleted_user_leaves_a_tombstone_and_begins_anew() -> None:
    """Law: deletion gives one tombstone; later clicks make a new ring without what was."""
    histories = filled("abc")
    histories.forget(USER)
    assert histories.take() == {USER: None}
    assert histories.take() == {}
    histories.click(3, click("d", 3))
    histories.exposure(USER, 0, 3, ["s"])
    assert seen(histories, 4, 9) == "d"
    history = histories.take()[USER]
    assert history is not None
    assert [entry.item_id for entry in history.clicks] == ["d"]


def test_only_changed_users_are_taken_and_what_is_restored_goes_on() -> None:
    """Law: a restored history is the state it was written from; it is not due again by itself."""
    histories = filled("abcdefghijk")
    history = histories.take()[USER]
    assert history is not None
    again = Histories(2, 2)
    again.restore([(USER, msgspec.msgpack.decode(encode(history), type=History))])
    assert again.take() == {}
    for one in (histories, again):
        one.click(11, click("b", 3))  # out of order
        one.click(12, click("x", 12))
    assert seen(histories, 13, 99) == seen(again, 13, 99) == "kx"
    assert histories.take() == again.take()
    assert isinstance(history.clicks[0], RingEntry)
