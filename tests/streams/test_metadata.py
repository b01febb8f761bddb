"""Commit metadata: comes back as it was, always fits Kafka's limit, and is refused when it is not ours."""

import random

import pytest

from contract.errors import RefusedError
from contract.kafka import METADATA_MAX_CHARS
from contract.messages import Advance, Click, Exposure
from streams.join import Commit, Join, Rules, needed_from, totals_of
from streams.metadata import TOTALS, Start, decode, encode, fits
from streams.verdicts import NEVER

RULES = Rules(1_800_000, 300_000, 120_000, 20, 20, 86_400_000)
START_MS = 1_700_000_000_000
HUGE = 1 << 62


def test_metadata_comes_back() -> None:
    """Law: decode is the inverse of encode."""
    totals = {name: HUGE + place for place, name in enumerate(TOTALS)}
    advances = [Advance(5, 7, START_MS, "both"), Advance(5, 9, START_MS - 3, "exposures"), Advance(8, 9, 1, "clicks")]
    for start in (Start(3, NEVER, totals, []), Start(HUGE, -4, {}, advances), Start(0, START_MS, {}, [])):
        assert decode(encode(start)) == start


def test_a_full_list_fits_at_its_worst() -> None:
    """Law: whatever `fits` lets in fits into 4,095 characters, with the longest numbers and any part of it dropped."""
    rnd = random.Random(1)
    advances: list[Advance] = []
    while fits([*advances, Advance(HUGE, HUGE, HUGE, "both")]):
        last = advances[-1] if advances else Advance(HUGE >> 1, 0, 0, "both")
        step = rnd.choice([1, 10**6, 10**12])
        advances.append(
            Advance(last.exposures_position + step, last.clicks_position + 1, rnd.randrange(HUGE), "exposures")
        )
    assert len(advances) > 50
    for _ in range(300):
        kept = [a for a in advances if rnd.random() < rnd.choice([0.1, 0.5, 1.0])]
        assert len(encode(Start(HUGE, -HUGE, {}, kept))) <= METADATA_MAX_CHARS
    assert len(encode(Start(HUGE, -HUGE, dict.fromkeys(TOTALS, HUGE), []))) <= METADATA_MAX_CHARS


def test_sparse_traffic_never_outgrows_the_metadata() -> None:
    """Law: an event now and then with idle times between, for hours: the list fills up, no more are made than fit, and
    what is committed is still enough for a re-read of the same verdicts.
    """  # noqa: D205
    rnd, join, made, longest, offset = random.Random(2), Join(RULES), 0, 0, 10**12
    for number in range(3_000):
        ts = START_MS + number * 1_000
        offset += rnd.randrange(1, 10**6)
        if number % 2:
            join.exposure(offset, ts, Exposure(f"r{number}", "u", ts, ["a"]), None)
        else:
            join.click(offset, ts, Click("u", "a", ts, "click", f"r{number - 1}"), None)
        made += join.idle(exposures=rnd.random() < 0.7, clicks=True)
        join.take()
        longest = max(longest, *(len(text) for text in join.commit() if isinstance(text, str)))
    assert 3_000 < longest <= METADATA_MAX_CHARS
    assert 100 < made < 3_000


@pytest.mark.parametrize("text", ["", "{}", "[2,0,null,[],[]]", "[1,0,null,[],[1,2,3]]", "[1,0,null,[5],[]]", "hello"])
def test_foreign_metadata_is_refused(text: str) -> None:
    """Law: offsets that a tool has set (no metadata, or foreign) are refused, with the way out."""
    with pytest.raises(RefusedError, match="namespace"):
        needed_from(Commit(5, text, 7, text))


def test_the_other_mode_is_refused() -> None:
    """Law: a namespace joined with exposures is not continued without them, nor the other way round."""
    alone = Rules(1_800_000, 300_000, 120_000, 20, 20, 86_400_000, clicks_only=True)
    for before, after in ((RULES, alone), (alone, RULES)):
        commit = Join(before).commit()
        with pytest.raises(RefusedError, match=r"join\.mode"):
            Join.rebuild(after, commit, iter(()), iter(()), (), ())


def test_totals_are_in_the_metadata() -> None:
    """Law: `status` reads exact totals from the committed offsets alone."""
    join = Join(RULES)
    join.exposure(0, START_MS, Exposure("r", "u", START_MS, ["a"]), None)
    join.click(0, START_MS, Click("u", "a", START_MS, "click", "r"), None)
    join.take()
    totals = totals_of(join.commit().exposures_metadata)
    assert totals == join.totals
    assert (totals["exposures"], totals["clicks"], totals["samples"]) == (1, 1, 1)
