"""The audit of streams: join the raw logs offline up to the committed offsets, and compare with what was written.

Everything is read once and laid aside by partition and slice of users; then slice after slice is joined and compared,
so that memory is bounded by a slice (beside dead letters and items, which are few):

    samples    ── advances (from the markers), samples, hard negatives ──┐
    exposures  ── door, time ── accepted ─┐                              ├─ compare ─> one Check per kind
    clicks     ── door, time ── accepted ─┴─ join_users ── expected ─────┤
    outcomes, histories, popularity, dead letters ───────────────────────┘

The settings must be those that the namespace has had from its beginning. Histories of users that were deleted are left
out: a deletion acts when it is read, which no log tells. Whoever was deleted stands in the markers, and in tombstones
on `profiles` and `histories`, which compaction takes once the user has come back.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, cast

from confluent_kafka import Message

from contract.errors import BadInputError
from contract.kafka import partition_of
from contract.messages import (
    Advance,
    Click,
    Exposure,
    HardNegatives,
    History,
    Marker,
    Outcome,
    Popularity,
    RankingDrop,
    Sample,
    SampleRecord,
    decode_raw,
    decoder,
)
from contract.settings import Settings
from headrace.audit_compare import Check, compare, same_counts, same_history, same_sample
from headrace.audit_slices import Slices
from headrace.audit_snapshot import SOURCES, Progress, Snapshot
from headrace.join_rules import rules_of
from headrace.offline_join import Count, Joined, id_of, join_users
from headrace.offline_times import Accepted, E, Log, Record, Rules, Times

KINDS = ("samples", "outcomes", "popularity", "histories", "dead letters", "hard negatives")
_samples, _outcomes = decoder(SampleRecord), decoder(Outcome)
_histories, _popularity = decoder(History), decoder(Popularity)


def check(settings: Settings, progress: Progress) -> list[Check]:
    """Audit all partitions; one Check per kind of record."""
    snapshot = Snapshot(settings, progress)
    partitions = range(snapshot.partitions)
    events = max(snapshot.end("exposures", p) + snapshot.end("clicks", p) for p in partitions)
    with Slices(events) as slices:
        audit = _Audit(rules_of(settings), snapshot, slices)
        audit.read()
        for partition in partitions:
            audit.compare(partition)
    return list(audit.checks.values())


class _Audit:
    """Reads a snapshot, then compares partition by partition."""

    def __init__(self, rules: Rules, snapshot: Snapshot, slices: Slices) -> None:
        self._rules, self._snapshot, self._slices = rules, snapshot, slices
        self.checks = {kind: Check("streams", kind) for kind in KINDS}
        partitions = range(snapshot.partitions)
        self._advances: list[list[Advance]] = [[] for _ in partitions]
        self._logs: dict[tuple[str, int], Log] = {}
        self._deleted: set[str] = set()
        self._popularity: list[dict[str, bytes]] = [{} for _ in partitions]
        self._expected_letters: list[dict[tuple[str, int], str]] = [{} for _ in partitions]
        self._letters: list[list[tuple[tuple[str, int], str]]] = [[] for _ in partitions]

    # ---- reading

    def read(self) -> None:
        """Read every topic once."""
        self._read_letters()
        self._read_samples()
        for partition, advances in enumerate(self._advances):
            self._logs["exposures", partition] = Log(a.exposures_position for a in advances)
            self._logs["clicks", partition] = Log(a.clicks_position for a in advances)
        if not self._rules.clicks_only:
            self._read_events("exposures", Exposure)
        self._read_events("clicks", Click)
        for log in self._logs.values():
            log.end()
        self._read_ranking_drops()
        for topic in ("outcomes", "histories", "profiles", "popularity"):
            self._read_derived(topic)

    def _read_letters(self) -> None:
        for source in SOURCES:
            for _, message in self._snapshot.read(f"{source}.dlq"):
                about = {name: _text(value) for name, value in cast("list[tuple[str, Any]]", message.headers() or [])}
                offset, reason = (about[f"__connect.errors.{n}"] for n in ("offset", "exception.class.name"))
                self._letters[int(about["__connect.errors.partition"])].append(((source, int(offset)), reason))

    def _read_samples(self) -> None:
        for partition, message in self._snapshot.read("samples"):
            value = message.value() or b""
            match _samples.decode(value):
                case Marker() as marker:
                    self._advances[partition] += marker.advances
                    self._deleted.update(marker.deleted)
                case Sample() as sample:
                    self._slices.keep("samples", partition, sample.user_id, 0, 0, value)
                case HardNegatives() as drops:
                    self._slices.keep("hard negatives", partition, drops.user_id, 0, 0, value)

    def _read_events(self, source: str, kind: type[E]) -> None:
        for partition, message, record in self._records(source, kind):
            reason = self._logs[source, partition].verdict(self._rules, record)
            self._note(source, partition, message, record, reason)

    def _read_ranking_drops(self) -> None:
        """Ranking-drops are no input of the join: broken, wrong_partition and ahead are their only verdicts."""
        for partition, message, record in self._records("ranking-drops", RankingDrop):
            reason = record.refused
            if record.event is not None and record.event.ts_ms > record.arrival_ms + self._rules.max_skew_ms:
                reason = "ahead"
            self._note("ranking-drops", partition, message, record, reason)

    def _records(self, source: str, kind: type[E]) -> Iterator[tuple[int, Message, Record[E]]]:
        """Raw records with the door's verdict: decodes, lies on its key's partition, is no known poison."""
        poison = {
            (partition, offset)
            for partition, letters in enumerate(self._letters)
            for (at, offset), reason in letters
            if at == source and reason == "poison"
        }
        for partition, message in self._snapshot.read(source):
            offset, arrival_ms = cast("int", message.offset()), message.timestamp()[1]
            event: E | None = None
            refused = "poison"
            if (partition, offset) not in poison:
                try:
                    event = decode_raw(kind, message.value() or b"")
                    refused = "" if _home(event.user_id, self._snapshot.partitions) == partition else "wrong_partition"
                except BadInputError:
                    refused = "broken"
            yield partition, message, Record(offset, arrival_ms, None if refused else event, refused)

    def _note(self, source: str, partition: int, message: Message, record: Record[E], reason: str) -> None:
        if reason:
            self._expected_letters[partition][source, record.offset] = reason
        elif record.event is not None:
            value = message.value() or b""
            self._slices.keep(source, partition, record.event.user_id, record.offset, record.arrival_ms, value)

    def _read_derived(self, topic: str) -> None:
        for partition, message in self._snapshot.read(topic):
            key, value = _text(message.key()), message.value()
            if value is None:
                self._deleted.add(key)  # of popularity none is ever deleted
            elif topic == "popularity":
                self._popularity[partition][key] = value
            elif topic != "profiles":
                self._slices.keep(topic, partition, key, 0, 0, value)

    # ---- comparing

    def compare(self, partition: int) -> None:
        """Join and compare one partition."""
        where = f"partition {partition}"
        logs = self._logs["exposures", partition], self._logs["clicks", partition]
        times = Times(self._rules, *logs, self._advances[partition])
        counts: dict[str, Count] = {}
        expected_letters = self._expected_letters[partition]
        for number in range(self._slices.count):
            joined = self._join(partition, number, times)
            for item, count in joined.popularity.items():
                counts.setdefault(item, Count()).add(count)
            expected_letters |= {(source, offset): reason for source, offset, reason in joined.dead_letters}
            self._compare_slice(where, partition, number, joined)
        found = ((item, _popularity.decode(value)) for item, value in self._popularity[partition].items())
        same = same_counts(times.ref_ms, self._rules.half_life_ms)
        compare(self.checks["popularity"], where, counts, found, same)
        compare(self.checks["dead letters"], where, expected_letters, self._letters[partition])

    def _join(self, partition: int, number: int, times: Times) -> Joined:
        return join_users(
            self._rules,
            times,
            self._accepted("exposures", partition, number, Exposure),
            self._accepted("clicks", partition, number, Click),
        )

    def _accepted(self, source: str, partition: int, number: int, kind: type[E]) -> Iterator[Accepted[E]]:
        for offset, arrival_ms, _, value in self._slices.records(source, partition, number):
            yield Accepted(offset, arrival_ms, decode_raw(kind, value))

    def _compare_slice(self, where: str, partition: int, number: int, joined: Joined) -> None:
        def values(kind: str) -> Iterator[tuple[str, bytes]]:
            return ((kept.key, kept.value) for kept in self._slices.records(kind, partition, number))

        samples = (_samples.decode(value) for _, value in values("samples"))
        by_id = ((id_of(sample), sample) for sample in samples)
        compare(self.checks["samples"], where, joined.samples, by_id, same_sample(self._deleted))
        outcomes = (_outcomes.decode(value) for _, value in values("outcomes"))
        by_offset = ((outcome.exposure_offset, outcome) for outcome in outcomes)
        compare(self.checks["outcomes"], where, joined.outcomes, by_offset)
        last = dict(values("histories"))
        compare(
            self.checks["histories"],
            where,
            {user: history for user, history in joined.histories.items() if user not in self._deleted},
            ((user, _histories.decode(value)) for user, value in last.items() if user not in self._deleted),
            same_history(4 * self._rules.history_length, self._rules.shown_exposures),
        )
        drops = self._accepted("ranking-drops", partition, number, RankingDrop)
        negatives = (_samples.decode(value) for _, value in values("hard negatives"))
        compare(
            self.checks["hard negatives"],
            where,
            {drop.offset: _hard_negatives(drop) for drop in drops},
            ((found.offset, found) for found in negatives),
        )


def _hard_negatives(drop: Accepted[RankingDrop]) -> HardNegatives:
    event = drop.event
    return HardNegatives(event.user_id, event.ts_ms, event.items, drop.offset, event.request_id or "", event.stage)


@lru_cache(1_000_000)
def _home(user: str, partitions: int) -> int:
    return partition_of(user.encode(), partitions)


def _text(data: str | bytes | None) -> str:
    return data.decode("utf-8", "replace") if isinstance(data, bytes) else data or ""
