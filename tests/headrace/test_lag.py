"""Lag is what is left to read: markers, aborted and open transactions are not; seconds count from the arrival."""

import time

import pytest
from confluent_kafka import Producer, TopicPartition

from contract import kafka as edge
from contract.settings import Settings
from headrace import offsets
from streams import groups
from streams.lag import Observed, Row, row, total
from tests.conftest import SettingsFactory

NOW_MS = 1_000_000


@pytest.mark.parametrize(
    ("committed", "end", "first", "records", "lag", "behind_s"),
    [
        (10, 10, None, None, 0, 0.0),  # at the end
        (9, 10, None, None, 0, 0.0),  # a marker is left, no record
        (4, 10, (5, NOW_MS - 2_000), 3, 3, 2.0),  # few are left: counted, markers between them not
        (0, 900_000, (0, NOW_MS - 60_000), None, 900_000, 60.0),  # many are left: the offsets say it
        (None, 7, (0, NOW_MS - 500), 7, 7, 0.5),  # never committed: everything is left
        (3, 8, (3, NOW_MS + 5_000), 5, 5, 0.0),  # the broker's clock is ahead of ours
    ],
)
def test_a_row(
    committed: int | None, end: int, first: tuple[int, int] | None, records: int | None, lag: int, behind_s: float
) -> None:
    """Lag counts records from the first unread one on, seconds count from its arrival; caught up is 0 and 0."""
    offset, arrival_ms = first or (None, None)
    seen = Observed("g", "t", 0, committed, 0, end, offset, arrival_ms, records)
    assert row(seen, NOW_MS) == Row("g", "t", 0, committed, end, lag, behind_s)


def transactional(settings: Settings) -> Producer:
    made = edge.producer(settings.kafka, transactional_id=settings.names.transactional_id("test"))
    made.init_transactions(20)
    return made


def write(target: Producer, settings: Settings, values: int, *, commit: bool = True) -> None:
    """One transaction of some records on samples-0; not ended unless `commit`."""
    target.begin_transaction()
    for n in range(values):
        edge.produce(target, settings.names.topic("samples"), b"%d" % n, b"k", partition=0)
    target.flush(10)
    if commit:
        target.commit_transaction(10)


def commit(settings: Settings, offset: int) -> None:
    """Commit samples-0 for the trainer."""
    reader = edge.consumer(settings.kafka, settings.names.group("trainer"))
    reader.commit(offsets=[TopicPartition(settings.names.topic("samples"), 0, offset)], asynchronous=False)
    reader.close()


def of_samples(settings: Settings) -> Row:
    rows = offsets.lag(settings)
    (found,) = [r for r in rows if r.topic == settings.names.topic("samples") and r.partition == 0]
    return found


def test_only_records_lag(settings: SettingsFactory) -> None:
    """Real transactions: commit markers, an aborted and an open transaction leave lag where the records leave it.

    samples-0   0 1 2 C | 4 5 A | 7 C | 9 10 (open)
    """
    mine = settings(**{"kafka.partitions": 2})
    edge.create_topics(mine)
    writer = transactional(mine)
    write(writer, mine, 3)
    write(writer, mine, 2, commit=False)
    writer.abort_transaction(10)
    write(writer, mine, 1)
    write(writer, mine, 2, commit=False)
    found = of_samples(mine)
    assert (found.committed, found.end, found.lag) == (None, 9, 4)
    assert 0 <= found.behind_s < 60
    commit(mine, 3)  # the marker, the aborted records and 7 are left
    assert of_samples(mine).lag == 1
    commit(mine, 8)  # the marker at 8 is left
    assert (of_samples(mine).lag, of_samples(mine).behind_s) == (0, 0.0)
    writer.commit_transaction(10)
    assert of_samples(mine).lag == 2
    time.sleep(0.3)
    assert of_samples(mine).behind_s >= 0.3


def test_every_group_has_its_rows(settings: SettingsFactory) -> None:
    """All partitions of what a group reads are listed before it ever committed, and only of this namespace."""
    mine = settings(**{"kafka.partitions": 3})
    edge.create_topics(mine)
    rows = offsets.lag(mine)
    assert {r.group for r in rows} == {mine.names.group(role) for role in groups.READS}
    assert len([r for r in rows if r.topic == mine.names.topic("clicks")]) == 3
    assert total(rows) == 0


def test_many_records_are_measured_by_offsets(settings: SettingsFactory) -> None:
    """More records than are worth counting: end minus the first unread record."""
    mine = settings(**{"kafka.partitions": 1})
    edge.create_topics(mine)
    writer = edge.producer(mine.kafka)
    for n in range(groups.COUNTED_RECORDS + 500):
        edge.produce(writer, mine.names.topic("clicks"), b"{}", b"%d" % n)
    writer.flush(20)
    (found,) = [r for r in offsets.lag(mine) if r.topic == mine.names.topic("clicks")]
    assert found.lag == groups.COUNTED_RECORDS + 500
    assert found.behind_s > 0
