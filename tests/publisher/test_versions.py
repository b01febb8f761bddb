"""Which update comes next, which version is served, which are forgotten."""

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.messages import Served, encode
from publisher.control import decode
from publisher.versions import Verdict, expired, freshness, judge, serve, should_serve

APPLIED = {2: 40, 3: 7}


@pytest.mark.parametrize(
    ("kind", "version", "sequence", "wanted"),
    [
        ("delta", 3, 8, Verdict.APPLY),
        ("delta", 3, 7, Verdict.STALE),
        ("delta", 3, 1, Verdict.STALE),
        ("delta", 3, 9, Verdict.GAP),
        ("snapshot", 3, 9, Verdict.APPLY),  # heals the gap
        ("snapshot", 3, 7, Verdict.STALE),
        ("delta", 4, 1, Verdict.WRONG_VERSION),
        ("snapshot", 4, 0, Verdict.APPLY),
        ("delta", 2, 41, Verdict.APPLY),
        ("snapshot", 1, 0, Verdict.APPLY),  # room for a third version
    ],
)
def test_verdicts(kind: Literal["snapshot", "delta"], version: int, sequence: int, wanted: Verdict) -> None:
    """Gap and wrong version are refused, what is known is stale, a snapshot stands for itself."""
    assert judge(APPLIED, kind, version, sequence, 3) == wanted


def test_version_below_the_kept_ones_is_stale() -> None:
    """A version that would expire at once is not applied."""
    assert judge({2: 0, 3: 0, 4: 0}, "snapshot", 1, 0, 3) == Verdict.STALE


@given(st.lists(st.tuples(st.sampled_from(["snapshot", "delta"]), st.integers(1, 3), st.integers(0, 6)), max_size=40))
def test_sequence_never_goes_back_or_jumps(stream: list[tuple[Literal["snapshot", "delta"], int, int]]) -> None:
    """In whatever order updates come, a version's sequence only rises, and by more than one only by a snapshot."""
    applied: dict[int, int] = {}
    for kind, version, sequence in stream:
        if judge(applied, kind, version, sequence, 10) == Verdict.APPLY:
            before = applied.get(version)
            assert kind == "snapshot" or sequence == (before if before is not None else -9) + 1
            assert before is None or sequence > before
            applied[version] = sequence


@given(st.sets(st.integers(1, 50)), st.sets(st.integers(1, 50), max_size=2), st.integers(2, 5))
def test_served_versions_never_expire(versions: set[int], served: set[int], keep: int) -> None:
    """The newest versions and those that are served or gone back to stay; all others go."""
    old = set(expired(versions, served, keep))
    assert not old & served
    assert not old & set(sorted(versions)[-keep:])
    assert old == versions - served - set(sorted(versions)[-keep:])


def test_pointer_follows_new_versions_only() -> None:
    """A new version is served by itself; not after a promotion, and not one that was rolled back."""
    first = serve(None, "live", 1, 5)
    assert first == Served("live", 1, 0, 5)
    second = serve(first, "live", 2, 6)
    assert second == Served("live", 2, 1, 6)
    back = serve(second, "live", 1, 7)
    assert back == Served("live", 1, 2, 7)
    assert should_serve(None, "live", 1)
    assert should_serve(first, "live", 2)
    assert not should_serve(back, "live", 2)
    assert should_serve(back, "live", 3)
    assert not should_serve(Served("backfill", 1, 0, 8), "live", 9)


def test_freshness_needs_a_newer_click() -> None:
    """Freshness is that of the newest click; an update without one keeps it, however late the update comes."""
    assert freshness((0, None), 0, 9_000) == (0, None)
    first = freshness((0, None), 1_000, 1_300)
    assert first == (1_000, 300)
    assert freshness(first, 1_000, 9_000_000) == first
    assert freshness(first, 900, 9_000_000) == first
    assert freshness(first, 2_000, 2_500) == (2_000, 500)


@pytest.mark.parametrize("value", [b"", b"\xc1", b"garbage", encode(Served("live", 4, 3, 0))[:-1], b"\x92\x01\xa1b"])
def test_what_is_no_pointer_is_none(value: bytes) -> None:
    """Bytes on `control` that are no served pointer are passed over; also such that hold no UTF-8."""
    assert decode(value) is None
    assert decode(encode(Served("li\xe9ve", 4, 3, 0)).replace(b"\xc3", b"\xff")) is None
    assert decode(encode(Served("live", 4, 3, 0))) == Served("live", 4, 3, 0)
