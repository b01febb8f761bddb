"""The order in which partitions are read."""

from hypothesis import given
from hypothesis import strategies as st

from contract.messages import Marker, Sample, SampleRecord
from trainer.merge import Merge, Taken


def sample(ts_ms: int) -> Sample:
    return Sample("u", "r", ts_ms, "i", ts_ms, "click", 0, [], {}, ts_ms, 0, 0)


def drained(merge: Merge) -> list[Taken]:
    taken = []
    while (one := merge.next()) is not None:
        taken.append(one)
    return taken


LOGS = st.lists(st.lists(st.integers(1, 50), max_size=12).map(sorted), min_size=1, max_size=4)


@given(LOGS, st.randoms(use_true_random=False))
def test_a_backlog_comes_in_event_order_however_it_arrives(logs: list[list[int]], random: object) -> None:
    """Partitions ordered by time merge into one order by time, whatever the order in which Kafka hands them over."""
    merge = Merge(list(range(len(logs))))
    waiting = [[(p, n, ts) for n, ts in enumerate(log)] for p, log in enumerate(logs)]
    taken: list[Taken] = []
    while any(waiting):
        lane = random.choice([w for w in waiting if w])  # type: ignore[attr-defined]
        p, n, ts = lane.pop(0)
        merge.add(p, n, sample(ts))
        if not lane:
            merge.end(p)
        for q, log in enumerate(logs):
            if not log:
                merge.end(q)
        taken += drained(merge)
    times = [one.record.ts_ms for one in taken if isinstance(one.record, Sample)]
    assert times == sorted(ts for log in logs for ts in log)
    for p, log in enumerate(logs):
        assert [one.offset for one in taken if one.partition == p] == list(range(len(log)))


@given(LOGS, st.lists(st.booleans(), min_size=4, max_size=4))
def test_no_partition_is_lost_and_none_waits_for_one_at_its_end(logs: list[list[int]], ended: list[bool]) -> None:
    """Once all partitions are at their ends or flagged idle, everything that is here is given."""
    merge = Merge(list(range(len(logs))))
    total = 0
    for p, log in enumerate(logs):
        if not ended[p]:
            merge.add(p, 0, Marker(1, idle=True))
            total += 1
        for n, ts in enumerate(log):
            merge.add(p, n + 1, sample(ts))
        total += len(log)
    taken = drained(merge)
    for p in range(len(logs)):
        if ended[p]:
            merge.end(p)
    taken += drained(merge)
    assert len(taken) == total


def test_an_unread_partition_holds_the_others_only_while_it_may_be_behind() -> None:
    """Partition 1 has unread records.

    partition 0    5      8         20
    partition 1       6      9 ...            | here after a while: 6, 9
    """
    merge = Merge([0, 1])
    for n, ts in enumerate((5, 8, 20)):
        merge.add(0, n, sample(ts))
    assert drained(merge) == []
    merge.add(1, 0, sample(6))
    merge.add(1, 1, sample(9))
    assert [one.record.ts_ms for one in drained(merge) if isinstance(one.record, Sample)] == [5, 6, 8, 9]
    merge.end(1)
    assert [one.record.ts_ms for one in drained(merge) if isinstance(one.record, Sample)] == [20]


def test_idle_partitions_hold_no_border() -> None:
    """Passed is what every partition that is not idle has passed; all idle: the furthest."""
    merge = Merge([0, 1, 2])
    for p in range(3):
        merge.end(p)
    assert merge.passed_ms() is None

    def mark(p: int, progress_ms: int | None, *, idle: bool) -> int | None:
        record: SampleRecord = Marker(progress_ms, idle)
        merge.add(p, 0, record)
        merge.end(p)
        drained(merge)
        return merge.passed_ms()

    assert mark(0, 10, idle=False) == 10
    assert mark(1, 7, idle=False) == 7
    assert mark(1, 7, idle=True) == 10
    assert mark(2, None, idle=False) == 10
    assert mark(0, 10, idle=True) == 10
    assert mark(1, 900, idle=False) == 900


def test_in_a_backlog_a_border_is_seen_with_its_first_event() -> None:
    """The first record past a border shows that every partition has passed it: none of the new day comes before."""
    merge = Merge([0, 1, 2])
    for p, times in enumerate(([8, 9, 13], [7, 12, 15], [11, 14])):
        for n, ts_ms in enumerate(times):
            merge.add(p, n, sample(ts_ms))
    seen = []
    for _ in range(6):
        merge.next()
        seen.append(merge.passed_ms())
    assert seen == [8, 9, 11, 12, 13, 13]


def test_a_restored_merge_goes_on() -> None:
    """Progress and idle flags survive a checkpoint."""
    merge = Merge([0, 1])
    merge.add(0, 0, Marker(10, idle=True))
    merge.add(1, 0, Marker(5, idle=False))
    drained(merge)
    again = Merge([0, 1])
    again.load(merge.state())
    assert again.passed_ms() == merge.passed_ms() == 5
