"""The whole room on a real Kafka: samples in, versions and deltas out, killed in between."""

import os
import signal
import subprocess
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from confluent_kafka import TopicPartition
from structlog.testing import capture_logs

from contract import kafka
from contract.messages import Sample
from contract.settings import Settings, environment_of
from tests.trainer.process import (
    COMMAND,
    PARTITIONS,
    decode_record,
    lag,
    put,
    put_features,
    started,
    stopped,
    until,
    updates,
)
from tests.trainer.world import DAY_MS, START_MS, samples
from trainer import checkpoint, full_files
from trainer.days import Days, Picks
from trainer.full import full_update
from trainer.learner import Learner
from trainer.reader import again

SettingsFactory = Callable[..., Settings]


@pytest.fixture
def prepared(settings: SettingsFactory) -> Settings:
    own = settings(
        **{
            "train.batch": 64,
            "train.negatives": 32,
            "model.dim": 8,
            "full.min_samples": 50,
            "gate.min_samples": 20,
            "gate.tolerance": 1.0,
        }
    )
    kafka.create_topics(own)
    put_features(own)
    return own


def test_killed_trainer_counts_every_sample_once(prepared: Settings) -> None:
    """After kill -9 every sample counts once, sequences have no gap, lag comes to 0, the last state is published.

    0 ---- 700 samples ---- (a day border) ---- kill -9 ---- 300 more ---- start again ---- 500 more ---- stop
    """
    made = samples(1_500, gap_ms=200_000)  # three and a half days
    put(prepared, made[:700])
    first = started(prepared)
    until(lambda: any(u.kind == "delta" for u in updates(prepared)))
    assert stopped(first, signal.SIGKILL) == -signal.SIGKILL
    put(prepared, made[700:1_000])
    second = started(prepared)
    put(prepared, made[1_000:], idle=True)
    until(lambda: lag(prepared) == 0 and updates(prepared)[-1].manifest.samples == len(made))
    assert stopped(second) == 0

    loaded = checkpoint.load(prepared.files / "checkpoints")
    assert loaded is not None
    manifest, packed = loaded
    assert manifest.samples == len(made) == packed.plain["numbers"]["samples"]
    assert packed.plain["now"][0] == len(made)
    assert packed.plain["numbers"]["full_updates"] >= 2
    assert packed.plain["numbers"]["candidates"] >= 3  # the last one may still be on trial

    found = updates(prepared)
    newest = max(u.version for u in found)
    assert newest == packed.plain["numbers"]["full_updates"] + 1
    for version in {u.version for u in found}:
        sequences = [u.sequence for u in found if u.version == version]
        assert sequences == list(range(sequences[0], sequences[0] + len(sequences))), version
        assert next(u for u in found if u.version == version).kind == "snapshot"
    assert found[-1].manifest.samples == len(made)
    assert found[-1].manifest.arrival_ms == made[-1].arrival_ms


def test_what_is_published_is_what_was_learned(prepared: Settings) -> None:
    """The newest snapshot and the deltas after it give the checkpoint's rows, bit for bit; deleted ids are gone."""
    put(prepared, samples(300), idle=True)
    process = started(prepared)
    until(lambda: lag(prepared) == 0 and any(u.kind == "delta" for u in updates(prepared)))
    target = kafka.producer(prepared.kafka)
    kafka.produce(target, prepared.names.topic("catalogue"), None, b"i3")
    kafka.produce(target, prepared.names.topic("profiles"), None, b"u4")
    target.flush(10)
    until(lambda: any("i3" in rows.deleted for u in updates(prepared) for rows in u.items))
    until(lambda: any("u4" in rows.deleted for u in updates(prepared) for rows in u.users))
    assert stopped(process) == 0

    served: dict[str, bytes] = {}
    served_items: dict[str, bytes] = {}
    for update in updates(prepared):
        width = update.manifest.dim * 4
        for kind, rows_of in ((served, update.users), (served_items, update.items)):
            if update.kind == "snapshot":
                kind.clear()
            for rows in rows_of:
                kind.update((text, rows.rows[n * width : (n + 1) * width]) for n, text in enumerate(rows.ids))
                for text in rows.deleted:
                    kind.pop(text, None)
    loaded = checkpoint.load(prepared.files / "checkpoints")
    assert loaded is not None
    tensors, plain = loaded[1]
    for name, wanted in (("users", served), ("items", served_items)):
        ids, _ = plain["indexes"][name]
        values = tensors[f"live.{name}.values"].numpy()
        assert wanted == {text: values[row].tobytes() for row, text in enumerate(ids) if text is not None}, name
    assert "i3" not in served_items
    assert "u4" not in served


def test_a_full_update_goes_on_without_samples_that_retention_took(prepared: Settings) -> None:
    """What is left is learned in order and the missing are counted in a warning; `samples` is kept for a month."""
    topic, client = prepared.names.topic("samples"), kafka.admin(prepared.kafka)
    assert kafka.retention_ms(client, topic) == 30 * 86_400_000
    put(prepared, samples(60))
    days, partition = Days("UTC", 1), 0
    taken = []
    for message in kafka.read_to_end(prepared.kafka, topic, list(range(PARTITIONS))):
        record = decode_record(bytes(message.value() or b""))
        if isinstance(record, Sample):
            at = int(message.partition() or 0), int(message.offset() or 0)
            days.add(*at, record.ts_ms)
            taken.append((*at, record))
    own = [offset for p, offset, _ in taken if p == partition]
    assert days.passed(START_MS + DAY_MS)
    upto = TopicPartition(topic, partition, own[len(own) // 2])
    client.delete_records([upto])[upto].result(10)
    left = [r for p, offset, r in taken if p != partition or offset >= upto.offset]
    picks = Picks(np.array(days.partition), np.array(days.offset))
    assert again(prepared, picks) == left
    taught = Learner(prepared.model, prepared.train, prepared.full, prepared.history.length)
    taught.step([r for _, _, r in taken])
    full_files.write_border(prepared.files / "full" / "1", taught, *days.take(), {})
    with capture_logs() as lines:
        full_update(prepared, prepared.files / "full" / "1")
    gone = next(line for line in lines if line["event"] == "samples_gone")
    assert (gone["log_level"], gone["missing"], gone["of"]) == ("warning", len(taken) - len(left), len(taken))
    done = next(line for line in lines if line["event"] == "full_update")
    assert done["samples"] == len(left)
    assert full_files.is_done(prepared.files / "full" / "1")


def test_second_trainer_is_refused(prepared: Settings) -> None:
    """One namespace has one trainer: a second one says so and ends."""
    process = started(prepared)
    until(lambda: updates(prepared))
    second = subprocess.run(COMMAND, env={**os.environ, **environment_of(prepared)}, capture_output=True, check=False)
    assert second.returncode != 0
    assert b"another trainer holds" in second.stderr
    assert stopped(process) == 0
    kinds = Counter(u.kind for u in updates(prepared))
    assert kinds == {"snapshot": 1}
