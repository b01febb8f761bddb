"""Faults of what is stored: a full disk, flipped bytes, garbage on `updates`."""

import os
import random
import time
from collections.abc import Callable
from pathlib import Path

from confluent_kafka import Message

from contract import kafka
from contract.kafka import read_to_end
from headrace.process import wait_until
from tests.faults.bench import Bench

LEFT_BYTES = 4_096
TWO_CHECKPOINTS_S = 30.0


def disk_full(bench: Bench) -> None:
    """ENOSPC: the tmpfs is filled to the brim; where there is none, files may not grow (EFBIG, by RLIMIT_FSIZE)."""
    if bench.is_tmpfs:
        ballast = bench.home / "files" / "ballast"
        _fill(ballast)
        bench.note("ENOSPC on tmpfs")
        bench.pause(3, 6)
        ballast.unlink()
    else:
        bench.fleet.limit_files(("trainer", "publisher"), LEFT_BYTES)
        bench.note("EFBIG by RLIMIT_FSIZE")
        bench.pause(3, 6)
        bench.fleet.limit_files(("trainer", "publisher"), -1)


def corrupt_checkpoint(bench: Bench) -> None:
    """The newest checkpoint has a flipped bit, or was cut, when the trainer comes back; there is one before it."""
    kept = bench.settings.files / "checkpoints"
    wait_until(lambda: len(list(kept.glob("[0-9]*"))) > 1, TWO_CHECKPOINTS_S)  # a spoilt only one is a person's affair
    bench.fleet.hold("trainer")
    since = time.monotonic()
    newest = _newest(kept, "[0-9]*")
    if newest is not None:
        _spoil(bench.draw.choice([p for p in newest.iterdir() if p.stat().st_size]), bench.draw)
        bench.note("checkpoint corrupted")
    bench.recoveries.measure("trainer", since)
    bench.fleet.release("trainer")


def corrupt_index(bench: Bench) -> None:
    """A file of the newest index is spoilt when a server and the publisher come back."""
    bench.fleet.hold("publisher")
    since = time.monotonic()
    newest = _newest(bench.settings.files / "index", "[0-9]*")
    if newest is not None:
        path = bench.draw.choice([p for p in newest.iterdir() if p.stat().st_size])
        copy = path.with_name(f"{path.name}.spoilt")  # beside and renamed: servers have the old one mapped
        copy.write_bytes(path.read_bytes())
        _spoil(copy, bench.draw)
        copy.rename(path)
        bench.note("index corrupted")
    bench.recoveries.measure("publisher", since)
    bench.fleet.release("publisher")
    bench.kill("server-0")


def corrupt_update(bench: Bench) -> None:
    """Chunks of an update come once more with a wrong crc, from a producer that nobody fenced."""
    topic, settings = bench.settings.names.topic("updates"), bench.settings
    chunks = [m for m in read_to_end(settings.kafka, topic, [0]) if m.value()]
    if chunks:
        target = kafka.producer(settings.kafka)
        for message in bench.draw.sample(chunks, min(3, len(chunks))):
            kafka.produce(target, topic, _flipped(message, bench.draw), message.key(), partition=0)
        target.flush(10)
        bench.note("update chunks corrupted")


def _fill(ballast: Path) -> None:
    with ballast.open("wb", buffering=0) as file:
        size = 1 << 20
        while size:
            try:
                file.write(os.urandom(size))
            except OSError:
                size //= 2


def _newest(directory: Path, pattern: str) -> Path | None:
    found = [p for p in directory.glob(pattern) if p.is_dir()]
    return max(found, key=lambda p: p.stat().st_mtime_ns, default=None)


def _spoil(path: Path, draw: random.Random) -> None:
    data = bytearray(path.read_bytes())
    if draw.random() < 0.3:
        data = data[: len(data) // 2]
    else:
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    path.write_bytes(data)


def _flipped(message: Message, draw: random.Random) -> bytes:
    data = bytearray(bytes(message.value() or b""))
    data[draw.randrange(len(data))] ^= 0x10
    return bytes(data)


FAULTS: dict[str, Callable[[Bench], None]] = {
    "disk_full": disk_full,
    "corrupt_checkpoint": corrupt_checkpoint,
    "corrupt_index": corrupt_index,
    "corrupt_update": corrupt_update,
}
