"""When an input counts as silent; time is given."""

from streams.idleness import Idleness

EXPOSURES, CLICKS, ELSEWHERE = ("exposures", 0), ("clicks", 0), ("clicks", 1)


def test_an_input_is_silent_after_its_whole_time_out_at_the_end() -> None:
    """Silent means: at the end for the time-out; records or trouble start the clock anew."""
    idleness = Idleness(10)
    idleness.ended(EXPOSURES, 100)
    assert idleness.silent(109) == []
    assert idleness.silent(110) == [EXPOSURES]
    idleness.moved(EXPOSURES, 111)
    assert idleness.silent(130) == []
    idleness.ended(EXPOSURES, 131)
    idleness.trouble(138)
    assert idleness.silent(141) == []
    assert idleness.silent(148) == [EXPOSURES]


def test_an_input_that_wakes_wakes_its_partner() -> None:
    """After a quiet time the partner gets its whole time-out again; other partitions are none of its business."""
    # exposures   end 0 ──────────── 20 wakes, end 21
    # clicks      end 0 ──────────── clock anew at 20 ─── silent at 30
    idleness = Idleness(10)
    for lane in (EXPOSURES, CLICKS, ELSEWHERE):
        idleness.ended(lane, 0)
    assert idleness.silent(20) == [EXPOSURES, CLICKS, ELSEWHERE]
    idleness.moved(EXPOSURES, 20)
    assert idleness.silent(20) == [ELSEWHERE]
    idleness.ended(EXPOSURES, 21)
    assert idleness.silent(30) == [CLICKS, ELSEWHERE]


def test_steady_traffic_does_not_keep_its_partner_awake() -> None:
    """Clicks that flow all the time do not keep empty exposures from being idle."""
    idleness = Idleness(10)
    idleness.ended(EXPOSURES, 0)
    for second in range(1, 11):
        idleness.ended(CLICKS, second)
        idleness.moved(CLICKS, second + 0.5)
    assert idleness.silent(10.6) == [EXPOSURES]
