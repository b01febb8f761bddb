"""`headrace produce` against a real Kafka: lines, deletions, and directories that are replayed once, come what may."""

import gzip
import io
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import msgspec
import pytest
from confluent_kafka import TopicPartition

from contract.errors import BadInputError, UnreachableError
from contract.interchange import write
from contract.kafka import admin, consumer, create_topics, end_offsets, partition_of, producer, read_to_end
from contract.messages import Click, Exposure, Item, User, encode_json
from contract.settings import Settings, environment_of
from headrace.process import wait_until
from streams.produce import delete, produce_file, produce_lines, replay_directory
from streams.resume import HEADER
from streams.sender import InterruptedSendError
from tests.conftest import SettingsFactory

DAY = 1_650_000_000_000


def _all(settings: Settings, topic: str) -> list[tuple[bytes | None, bytes | None, int]]:
    """(key, value, partition) of everything on a topic, partition by partition."""
    partitions = list(range(settings.kafka.partitions))
    return [
        (m.key(), m.value(), m.partition())  # type: ignore[misc]
        for m in read_to_end(settings.kafka, settings.names.topic(topic), partitions)
    ]


def _count(settings: Settings, topic: str) -> int:
    places = [TopicPartition(settings.names.topic(topic), p) for p in range(settings.kafka.partitions)]
    return sum(end_offsets(admin(settings.kafka), places).values())


def _clicks(count: int) -> list[Click]:
    return [Click(f"u{n % 37}", f"i{n % 11}", DAY + n * 1_000, "click", f"r{n}") for n in range(count)]


def _lines(messages: list[Click]) -> bytes:
    return b"".join(encode_json(m) + b"\n" for m in messages)


def _check_in(settings: Settings) -> None:
    """Commit, as streams' check does, that items and users are read to their ends."""
    places = [TopicPartition(settings.names.topic(t), p) for t in ("items", "users") for p in range(4)]
    ends = end_offsets(admin(settings.kafka), places)
    reader = consumer(settings.kafka, settings.names.group("streams-check"))
    reader.commit(offsets=[TopicPartition(t, p, e) for (t, p), e in ends.items()], asynchronous=False)
    reader.close()


def test_each_line_arrives_once_on_its_keys_partition(settings: SettingsFactory) -> None:
    """Every line is one record with the bytes of the line, keyed by its user, where Java's partitioner puts it."""
    made, clicks = settings(), _clicks(500)
    assert produce_lines(made, "clicks", io.BytesIO(_lines(clicks) + b"\n"), "stdin").sent == 500
    found = _all(made, "clicks")
    assert Counter(value for _, value, _ in found) == Counter(encode_json(c) for c in clicks)
    for key, value, partition in found:
        assert key is not None
        assert key == msgspec.json.decode(value or b"")["user_id"].encode()
        assert partition == partition_of(key, 4)


def test_a_broken_line_is_named_and_nothing_after_it_is_sent(settings: SettingsFactory, tmp_path: Path) -> None:
    """Line 17 broken: file, line and reason in one line, 16 events in Kafka; with skip_bad the rest goes on."""
    made, clicks = settings(), _clicks(30)
    lines = [encode_json(c) for c in clicks]
    lines[16] = b'{"user_id": 5}'
    path = tmp_path / "my.jsonl"
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(BadInputError, match=r"my\.jsonl:17: Expected `str`, got `int`.*; 16 events before it sent"):
        produce_file(made, "clicks", path)
    assert len(_all(made, "clicks")) == 16
    said: list[str] = []
    assert produce_file(made, "clicks", path, skip_bad=True, complain=said.append) == (29, 1)
    assert len(said) == 1
    assert "my.jsonl:17" in said[0]


def test_a_record_over_the_limit_is_named_by_its_line(settings: SettingsFactory) -> None:
    """A line that the topic cannot take is refused here, with its number and the limit; one just below is taken."""
    made = settings()
    small = Item("a", DAY, {"text": "x" * 500_000})
    large = Item("b", DAY, {"text": "x" * 1_100_000})
    data = encode_json(small) + b"\n" + encode_json(large) + b"\n"
    with pytest.raises(BadInputError, match=r"stdin:2: the record takes 1\d{6} bytes .* at most \d+ .*1 event before"):
        produce_lines(made, "items", io.BytesIO(data), "stdin")
    assert [key for key, _, _ in _all(made, "items")] == [b"a"]


def test_what_cannot_be_taken_is_one_clear_line(settings: SettingsFactory, tmp_path: Path) -> None:
    """Unknown topic, unreadable file, cut gzip file, unreachable broker: named, with what to do."""
    made = settings()
    with pytest.raises(BadInputError, match="no raw topic 'klicks': wanted one of exposures, clicks"):
        produce_lines(made, "klicks", io.BytesIO(), "stdin")
    with pytest.raises(BadInputError, match=r"cannot read .*nothing\.jsonl: No such file"):
        produce_file(made, "clicks", tmp_path / "nothing.jsonl")
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(gzip.compress(_lines(_clicks(2_000)))[:-20])
    with pytest.raises(BadInputError, match=r"cut\.jsonl\.gz: unreadable after line \d+"):
        produce_file(made, "clicks", cut)
    away = settings(**{"kafka.bootstrap_servers": "127.0.0.1:1", "kafka.reach_timeout_ms": 300})
    with pytest.raises(UnreachableError, match=r"127\.0\.0\.1:1 does not answer"):
        produce_lines(away, "clicks", io.BytesIO(), "stdin")


def test_rate_bounds_events_a_second(settings: SettingsFactory) -> None:
    """With a rate, n events take n / rate seconds."""
    start_s = time.monotonic()
    produce_lines(settings(), "clicks", io.BytesIO(_lines(_clicks(100))), "stdin", rate=100)
    assert time.monotonic() - start_s >= 0.99


def test_delete_writes_an_empty_record(settings: SettingsFactory) -> None:
    """A deletion is an empty record for the id, and for items and users only."""
    made = settings()
    produce_lines(made, "users", io.BytesIO(encode_json(User("ü", DAY))), "stdin")
    assert delete(made, "users", ["ü"]) == 1
    assert [(k, v) for k, v, _ in _all(made, "users")] == [
        ("ü".encode(), encode_json(User("ü", DAY))),
        ("ü".encode(), None),
    ]
    with pytest.raises(BadInputError, match="events cannot be deleted"):
        delete(made, "clicks", ["u"])
    with pytest.raises(BadInputError, match="1 to 256 UTF-8 bytes"):
        delete(made, "users", [""])


def _directory(path: Path, clicks: int) -> Path:
    write(path, "items", [Item(f"i{n}", DAY) for n in range(11)])
    write(path, "users", [User(f"u{n}", DAY) for n in range(37)])
    exposures = [Exposure(f"r{n}", f"u{n % 37}", DAY + n * 1_000, [f"i{n % 11}"]) for n in range(clicks)]
    write(path, "exposures", exposures)
    write(path, "clicks", _clicks(clicks))
    return path


def test_a_directory_goes_out_in_event_order_once_items_are_checked_in(
    settings: SettingsFactory, tmp_path: Path
) -> None:
    """No event is sent before streams' check has read items and users; each partition gets its lines in order."""
    made = settings()
    directory = _directory(tmp_path / "data", 300)
    with pytest.raises(UnreachableError, match=r"not checked in 48 of the records on .*items.*is it running"):
        replay_directory(made, directory, resume="a", patience_s=0.5)
    assert _all(made, "exposures") == []
    _check_in(made)
    seen: list[tuple[int, int]] = []
    counts = replay_directory(made, directory, progress=lambda *at: seen.append(at), resume="a")
    assert counts == {"items": 0, "users": 0, "exposures": 300, "clicks": 300}
    assert seen == [(n, 648) for n in range(1, 649)]
    by_partition: dict[int, list[int]] = {}
    for _, value, partition in _all(made, "clicks"):
        by_partition.setdefault(partition, []).append(msgspec.json.decode(value or b"")["ts_ms"])
    assert len(by_partition) == 4
    assert all(stamps == sorted(stamps) for stamps in by_partition.values())


def test_speed_is_a_multiple_of_event_time(settings: SettingsFactory, tmp_path: Path) -> None:
    """At speed N, events of T event seconds take T / N seconds."""
    write(tmp_path / "data", "clicks", _clicks(101))
    start_s = time.monotonic()
    replay_directory(settings(), tmp_path / "data", speed=100.0)
    assert 1.0 <= time.monotonic() - start_s < 10


def test_nothing_is_sent_of_a_directory_with_a_bad_line(settings: SettingsFactory, tmp_path: Path) -> None:
    """A directory is checked whole before its first record goes out: order and content."""
    made, directory = settings(), _directory(tmp_path / "data", 5)
    with gzip.open(directory / "clicks.jsonl.gz", "ab") as file:
        file.write(encode_json(Click("u", "i", DAY - 1)))
    with pytest.raises(BadInputError, match=r"clicks\.jsonl\.gz:6: ts_ms goes back"):
        replay_directory(made, directory)
    create_topics(made)
    assert _all(made, "items") == []


@pytest.mark.parametrize("others", [0, 3_000])
def test_a_killed_replay_goes_on_where_it_stopped(settings: SettingsFactory, tmp_path: Path, others: int) -> None:
    """Kill -9 in the middle, twice, and other writers' records behind: every line is in Kafka exactly once."""
    made, directory = settings(), _directory(tmp_path / "data", 2_000)
    create_topics(made)
    with pytest.raises(UnreachableError):
        replay_directory(made, directory, resume="once", patience_s=0.1)
    _check_in(made)
    program = (
        "import sys; from pathlib import Path; from contract.settings import load; "
        "from streams.produce import replay_directory; "
        "replay_directory(load(), Path(sys.argv[1]), 200.0, resume='once')"
    )
    for enough in (200, 600):
        environment = {**os.environ, **environment_of(made), "HEADRACE_MODEL__HISTORY_DECAYS": "[0.6,0.9]"}
        child = subprocess.Popen([sys.executable, "-c", program, str(directory)], env=environment)
        assert wait_until(lambda enough=enough: _count(made, "clicks") > enough, 60)  # type: ignore[misc]
        assert child.poll() is None
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    before = _count(made, "clicks")
    assert 0 < before < 2_000
    other = producer(made.kafka)
    for n in range(others):
        other.produce(made.names.topic("clicks"), b"{}", f"u{n}".encode(), headers=[(HEADER, b"another/9")])
    other.flush()
    counts = replay_directory(made, directory, resume="once")
    assert counts["clicks"] == 2_000 - before
    assert Counter(v for _, v, _ in _all(made, "clicks") if v != b"{}") == Counter(
        encode_json(c) for c in _clicks(2_000)
    )
    assert len(_all(made, "exposures")) == 2_000
    assert replay_directory(made, directory, resume="once").keys() == counts.keys()
    assert len(_all(made, "exposures")) == 2_000


def test_ctrl_c_says_how_many_were_acknowledged(settings: SettingsFactory) -> None:
    """An interrupt flushes first: what it says is acknowledged is what is in Kafka."""
    made = settings()

    def interrupt(sent: int) -> None:
        if sent == 50:
            raise KeyboardInterrupt

    with pytest.raises(InterruptedSendError, match="50 of 50 events sent are acknowledged"):
        produce_lines(made, "clicks", io.BytesIO(_lines(_clicks(100))), "stdin", progress=interrupt)
    assert len(_all(made, "clicks")) == 50
