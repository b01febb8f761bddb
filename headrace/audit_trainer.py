"""The audit of the trainer: its newest checkpoint against `samples` and `updates`.

samples     those the checkpoint has learned = those below its offsets, and none that is committed lies above them
user rows   rows of the checkpoint = what was published up to its sequence, but for those touched since;
items       likewise, with the vectors that are not due to be made anew
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from confluent_kafka import TopicPartition

from contract.kafka import committed, read_to_end
from contract.messages import Sample, SampleRecord, decoder
from contract.settings import Settings
from headrace.audit_compare import Check, compare
from headrace.audit_updates import Version, replayed, whole_updates

Progress = Callable[[int, int], object]
_record = decoder(SampleRecord)


class Manifest(msgspec.Struct):
    """What the audit reads of a checkpoint's manifest."""

    version: int
    sequence: int
    samples: int
    offsets: dict[str, int]


class Checkpoint(NamedTuple):
    """A checkpoint as plain arrays."""

    manifest: Manifest
    tensors: dict[str, Any]
    plain: dict[str, Any]


def check(settings: Settings, progress: Progress) -> list[Check]:
    """Audit the newest checkpoint; nothing to check before there is one."""
    checkpoint = _newest(settings.files / "checkpoints")
    if checkpoint is None:
        return []
    found = [_samples(settings, checkpoint.manifest, progress)]
    topic = settings.names.topic("updates")
    values = (bytes(v) for m in read_to_end(settings.kafka, topic, [0]) if (v := m.value()) is not None)
    versions = replayed(whole_updates(values))
    manifest = checkpoint.manifest
    published = versions.get(manifest.version)
    if published is not None and published.sequence == manifest.sequence:
        found += [_users(checkpoint, published), _items(checkpoint, published)]
    return found


def _newest(directory: Path) -> Checkpoint | None:
    from safetensors.numpy import load_file  # noqa: PLC0415  (only here)

    for path in sorted(directory.glob("[0-9]*"), reverse=True):
        manifest = msgspec.json.decode((path / "manifest.json").read_bytes(), type=Manifest)
        plain = msgspec.msgpack.decode((path / "plain.msgpack").read_bytes())
        return Checkpoint(manifest, load_file(path / "tensors.safetensors"), plain)
    return None


def _samples(settings: Settings, manifest: Manifest, progress: Progress) -> Check:
    """One sum: how many samples lie below the checkpoint's offsets, against how many it says it has learned."""
    topic, check_ = settings.names.topic("samples"), Check("trainer", "samples")
    limits = {int(p): offset for p, offset in manifest.offsets.items()}
    places = [TopicPartition(topic, p) for p in limits]
    done = {c.partition: c.offset for c in committed(settings.kafka, settings.names.group("trainer"), places)}
    total, above = sum(limits.values()), 0
    for read, message in enumerate(read_to_end(settings.kafka, topic, sorted(limits))):
        if read % 10_000 == 0:
            progress(read, total)
        if not isinstance(_record.decode(bytes(message.value() or b"")), Sample):
            continue
        partition, offset = int(message.partition() or 0), int(message.offset() or 0)
        if offset < limits[partition]:
            check_.expected += 1
        elif offset < done[partition]:
            above += 1
    check_.found = manifest.samples
    check_.missing = max(0, check_.expected - check_.found) + above
    check_.extra = max(0, check_.found - check_.expected)
    if above:
        check_.example(f"{above} samples are committed and in no checkpoint")
    if check_.expected != check_.found:
        check_.example(f"{check_.expected} samples lie below the checkpoint's offsets, {check_.found} are learned")
    return check_


def _users(checkpoint: Checkpoint, published: Version) -> Check:
    values = checkpoint.tensors["live.users.values"]
    rows = _rows(checkpoint, "users")
    check_ = Check("trainer", "user rows")
    _compare(check_, checkpoint, "users", published.users, ((text, values[row].tobytes()) for text, row in rows))
    return check_


def _items(checkpoint: Checkpoint, published: Version) -> Check:
    values, vectors, stale = (checkpoint.tensors[name] for name in ("live.items.values", "vectors", "stale"))
    rows = list(_rows(checkpoint, "items"))
    fresh = {text for text, row in rows if not stale[row]}
    check_ = Check("trainer", "items")
    expected = {text: (item.row, item.vector if text in fresh else b"") for text, item in published.items.items()}
    found = ((t, (values[row].tobytes(), vectors[row].tobytes() if t in fresh else b"")) for t, row in rows)
    _compare(check_, checkpoint, "items", expected, found)
    return check_


def _rows(checkpoint: Checkpoint, name: str) -> Iterator[tuple[str, int]]:
    """(id, row) of what was not touched since it was published."""
    touched = checkpoint.tensors[f"flags.{name}.touched"]
    for row, text in enumerate(checkpoint.plain["indexes"][name][0]):
        if text is not None and not touched[row]:
            yield text, row


def _compare(
    check_: Check, checkpoint: Checkpoint, name: str, expected: dict[str, Any], found: Iterable[tuple[str, Any]]
) -> None:
    """Compare what is settled: neither touched nor deleted since the last update."""
    touched = checkpoint.tensors[f"flags.{name}.touched"]
    ids = checkpoint.plain["indexes"][name][0]
    unsettled = {text for row, text in enumerate(ids) if text is not None and touched[row]}
    unsettled |= set(checkpoint.plain["deleted"][name])
    settled = {text: value for text, value in expected.items() if text not in unsettled}
    compare(check_, "checkpoint", settled, found)
