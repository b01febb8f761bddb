"""`headrace produce`: lines to a raw topic, deletions, and whole interchange directories in event order."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, NamedTuple, cast

from confluent_kafka import TopicPartition

from contract.errors import BadInputError, UnreachableError
from contract.interchange import EVENT_TOPICS, Line, locate, merged, numbered, open_lines, read
from contract.kafka import admin, committed, end_offsets, partition_counts, reach
from contract.messages import MAX_ID_BYTES, RAW_TYPES, decode_raw
from contract.settings import Settings
from streams.resume import HEADER, Resume
from streams.sender import RawMessage, Sender, key_of, known_topic

FEATURE_TOPICS = ("items", "users")
Progress = Callable[[int, int], object]  # (lines done, lines in all)
Complain = Callable[[str], object]


class Produced(NamedTuple):
    """What `produce_lines` did."""

    sent: int
    bad: int


def _nothing(*_: object) -> None:
    """Hear and say nothing."""


def produce_file(
    settings: Settings,
    topic: str,
    path: Path,
    *,
    rate: float = 0.0,
    skip_bad: bool = False,
    progress: Callable[[int], object] = _nothing,
    complain: Complain = _nothing,
) -> Produced:
    """Send a file's lines (plain or gzipped); as `produce_lines`, and BadInputError when it cannot be read."""
    with open_lines(path) as source:
        return produce_lines(
            settings, topic, source, str(path), rate=rate, skip_bad=skip_bad, progress=progress, complain=complain
        )


def produce_lines(
    settings: Settings,
    topic: str,
    source: IO[bytes],
    name: str,
    *,
    rate: float = 0.0,
    skip_bad: bool = False,
    progress: Callable[[int], object] = _nothing,
    complain: Complain = _nothing,
) -> Produced:
    """Send JSON lines to a raw topic, checked as streams' door does, `rate` a second (0: as fast as they come).

    The first bad line (or one over the broker's limit) ends it with BadInputError `name:line: reason`, after what came
    before it is acknowledged; with `skip_bad` such lines go to `complain` and are counted instead.
    """
    kind = RAW_TYPES[known_topic(topic)]
    bad = 0
    with Sender(settings, [topic]) as sender:
        start_s = time.monotonic()
        for number, value in numbered(source, name):
            where = f"{name}:{number}"
            try:
                key = key_of(cast("RawMessage", _decoded(kind, value, where)))
                sender.send(topic, key, value, where)
            except BadInputError as error:
                if not skip_bad:
                    sender.flush()
                    raise BadInputError(f"{error}; {_said(sender)} (--skip-bad goes on)") from None
                bad += 1
                complain(str(error))
                continue
            progress(sender.sent[topic])
            if rate > 0:
                sender.wait(start_s + sender.sent[topic] / rate)
    return Produced(sender.sent[topic], bad)


def delete(settings: Settings, topic: str, ids: list[str]) -> int:
    """Delete items or users by their ids: an empty record for the key."""
    if known_topic(topic) not in FEATURE_TOPICS:
        raise BadInputError(f"events cannot be deleted, only {' and '.join(FEATURE_TOPICS)}: got topic {topic!r}")
    for text in ids:
        if not 0 < len(text.encode("utf-8", "surrogateescape")) <= MAX_ID_BYTES:
            raise BadInputError(f"an id of 1 to {MAX_ID_BYTES} UTF-8 bytes is wanted, got {text[:40]!r}")
    with Sender(settings, [topic]) as sender:
        for text in ids:
            sender.send(topic, text.encode("utf-8", "surrogateescape"), None, f"--delete {text}")
    return len(ids)


def replay_directory(
    settings: Settings,
    directory: Path,
    speed: float = 0.0,
    progress: Progress = _nothing,
    resume: str | None = None,
    *,
    patience_s: float = 120.0,
) -> dict[str, int]:
    """Replay an interchange directory; gives the records sent by topic.

    1. Every line of every file is checked before the first is sent (BadInputError names the first bad one).
    2. Items and users go out; then streams' check must have read them (within `patience_s` of its last progress,
       else UnreachableError), so that no event meets an unknown item.
    3. Exposures and clicks go out as one stream by event time, at `speed` times event time (0: as fast as possible).

    `resume` names the replay: records carry the header `headrace.replay: NAME/line`, and lines that are in Kafka
    already are not sent again, so that a replay that was interrupted or killed goes on exactly where it stopped. This
    holds because one idempotent producer keeps the order within a partition and gives no record up: what is in a
    partition is a prefix of the lines that belong there. Never run two replays of one name at a time.
    """
    paths = locate(directory)
    totals = {topic: sum(1 for _ in read(path, topic)) for topic, path in paths.items()}
    total, done = sum(totals.values()), 0
    with Sender(settings, list(paths), patience_ms=0) as sender:
        known = _resume(settings, list(paths), resume)

        def take(line: Line) -> bool:
            nonlocal done
            sent = _send(sender, line, known)
            done += 1
            progress(done, total)
            return sent

        for topic in FEATURE_TOPICS:
            for line in read(paths[topic], topic) if topic in paths else ():
                take(line)
        sender.flush()
        features = [topic for topic in FEATURE_TOPICS if totals.get(topic)]
        if features and any(totals.get(topic) for topic in EVENT_TOPICS):
            wait_checked_in(settings, features, patience_s)
        clock: tuple[float, int] | None = None  # (monotonic seconds, event milliseconds) of the first event sent
        for line in merged(paths):
            if speed > 0 and clock:
                sender.wait(clock[0] + (line.message.ts_ms - clock[1]) / 1000 / speed)
            if take(line) and clock is None:
                clock = time.monotonic(), line.message.ts_ms
    return {topic: sender.sent[topic] for topic in paths}


def wait_checked_in(settings: Settings, topics: list[str], patience_s: float) -> None:
    """Return once streams' check has read `items` and `users` to their present ends.

    Raises UnreachableError when it makes no progress for `patience_s`.
    """
    group, names = settings.names.group("streams-check"), [settings.names.topic(t) for t in topics]
    counts = partition_counts(reach(settings.kafka))
    client = admin(settings.kafka)
    partitions = [TopicPartition(name, p) for name in names for p in range(counts[name])]
    ends = end_offsets(client, partitions, committed=True)
    least, deadline_s = None, time.monotonic() + patience_s
    while True:
        read_to = {(c.topic, c.partition): max(c.offset, 0) for c in committed(settings.kafka, group, partitions)}
        lag = sum(max(0, end - read_to[at]) for at, end in ends.items())
        if not lag:
            return
        if least is None or lag < least:
            least, deadline_s = lag, time.monotonic() + patience_s
        if time.monotonic() > deadline_s:
            raise UnreachableError(
                f"streams has not checked in {lag} of the records on {' and '.join(names)} (group {group}, no "
                f"progress for {patience_s:.0f} s): is it running? (`headrace run streams`, `headrace status`); "
                "exposures and clicks wait for that"
            )
        time.sleep(0.2)


def _resume(settings: Settings, topics: list[str], name: str | None) -> Resume | None:
    return None if name is None else Resume.read_back(settings, topics, name)


def _send(sender: Sender, line: Line, known: Resume | None) -> bool:
    key = key_of(line.message)
    if known is None:
        sender.send(line.topic, key, line.value, f"{line.topic}:{line.number}")
        return True
    if known.has(line.topic, key, line.number):
        return False
    sender.send(line.topic, key, line.value, f"{line.topic}:{line.number}", [(HEADER, known.mark(line.number))])
    return True


def _decoded(kind: type, value: bytes, where: str) -> object:
    try:
        return decode_raw(kind, value)
    except BadInputError as error:
        raise BadInputError(f"{where}: {error}") from None


def _said(sender: Sender) -> str:
    return f"{sender.acknowledged} event{'s' if sender.acknowledged != 1 else ''} before it sent, nothing after it"
