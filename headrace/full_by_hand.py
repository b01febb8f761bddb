"""`headrace train full`: leaves a request for the running trainer and waits for the gate's verdict.

The trainer does it, for it alone may touch its state; the day's samples are looked up here.
"""

import time
import uuid
from collections.abc import Callable
from datetime import date, datetime
from typing import Any
from zoneinfo import ZoneInfo

from confluent_kafka import TopicPartition

from contract.errors import BadInputError, RefusedError
from contract.full_request import FullRequest, leave
from contract.kafka import admin, committed, partition_counts, read_to_end
from contract.messages import Sample, SampleRecord, decoder
from contract.settings import Settings
from headrace import trainer_page

LOOK_S = 0.5
_record = decoder(SampleRecord)


def ask(settings: Settings, day: date | None, *, dry_run: bool) -> str:
    """Leave a request; gives its id. Raises HeadraceError where it cannot be done."""
    page = trainer_page.read(settings)
    if page["full"]["phase"] != "none":
        raise RefusedError(f"full update {page['full']['number']} is {page['full']['phase']}: wait for its verdict")
    request = FullRequest(uuid.uuid4().hex, dry_run, day=str(day) if day else "all since the last full update")
    if day is not None:
        partition, offset = _places(settings, day)
        request = FullRequest(request.id, dry_run, request.day, partition, offset)
    elif not page["gathered"]:
        raise RefusedError("nothing was learned since the last full update began: name a --day, or wait for clicks")
    if not leave(settings.files / "full", request):
        raise RefusedError("another full update was asked for and has not begun yet: wait for it")
    return request.id


def _places(settings: Settings, day: date) -> tuple[list[int], list[int]]:
    """Partitions and offsets of a day's samples that the trainer has learned, oldest first."""
    topic, zone = settings.names.topic("samples"), ZoneInfo(settings.full.time_zone)
    partitions = range(partition_counts(admin(settings.kafka))[topic])
    at = committed(settings.kafka, settings.names.group("trainer"), [TopicPartition(topic, p) for p in partitions])
    learned = {place.partition: place.offset for place in at}
    found: list[tuple[int, int, int]] = []
    first = last = None
    for message in read_to_end(settings.kafka, topic, list(partitions)):
        record = _record.decode(bytes(message.value() or b""))
        partition, offset = int(message.partition() or 0), int(message.offset() or 0)
        if not isinstance(record, Sample) or offset >= learned[partition]:
            continue
        of = datetime.fromtimestamp(record.ts_ms // 1000, zone).date()
        first, last = min(first or of, of), max(last or of, of)
        if of == day:
            found.append((record.ts_ms, partition, offset))
    if len(found) < settings.full.min_samples:
        held = f"it holds {first} to {last}" if first else "it holds none"
        raise BadInputError(
            f"--day {day}: {len(found)} samples of that day are in {topic}, at least {settings.full.min_samples} "
            f"(full.min_samples) are wanted; {held}"
        )
    found.sort()
    return [p for _, p, _ in found], [o for _, _, o in found]


def wait(settings: Settings, request: str, say: Callable[[str], None]) -> dict[str, Any]:
    """Wait for the verdict, and say how far it is; gives the verdict as the trainer shows it."""
    while True:
        full = trainer_page.read(settings)["full"]
        if full["last"] and full["last"]["request"] == request:
            verdict: dict[str, Any] = full["last"]
            return verdict
        if full["phase"] == "shadowing":
            say(f"shadowing: {full['paired']:,} of {full['wanted']:,} samples scored by both")
        else:
            say("waiting for the trainer" if full["phase"] == "none" else str(full["phase"]))
        time.sleep(LOOK_S)
