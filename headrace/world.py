"""An interchange directory as the samples that streams would make of it, in event order, without Kafka."""

import dataclasses
import gc
from dataclasses import dataclass
from pathlib import Path

from contract.interchange import locate, merged, read
from contract.kafka import partition_of
from contract.messages import Exposure, Item, Sample, User
from contract.settings import Settings
from streams.join import Join
from streams.processor import rules_of

TAKE_EVERY = 2_000  # events; how often does not change what comes out


@dataclass(frozen=True)
class World:
    """Everything an evaluation needs, read once."""

    samples: list[Sample]
    passed_ms: list[int]  # event time when each sample came out: what day borders go by
    items: list[Item]
    users: list[User]
    totals: dict[str, int]  # the join's
    clicks_only: bool


def read_world(directory: Path, settings: Settings) -> World:
    """Read and join a directory. Without an exposures file every click is a sample. Raises BadInputError."""
    paths = locate(directory)
    clicks_only = "exposures" not in paths or settings.join.mode == "clicks-only"
    join = Join(dataclasses.replace(rules_of(settings), clicks_only=clicks_only))
    samples: list[Sample] = []
    passed_ms: list[int] = []
    event_ms = 0
    gc.disable()  # millions of objects that all stay: collecting would look at each of them again and again
    for offset, line in enumerate(merged(paths)):
        event = line.message
        if offset % TAKE_EVERY == 0:
            samples += join.take().samples
        before = join.totals["samples"]
        if isinstance(event, Exposure):
            join.exposure(offset, event.ts_ms, event, None)
        elif event is not None:
            join.click(offset, event.ts_ms, event, None)  # type: ignore[arg-type]
        event_ms = max(event_ms, event.ts_ms)
        passed_ms += [event_ms] * (join.totals["samples"] - before)
    join.idle(exposures=True, clicks=True)
    samples += join.take().samples
    passed_ms += [event_ms] * (len(samples) - len(passed_ms))
    gc.freeze()
    gc.enable()
    items = [line.message for line in read(paths["items"], "items")] if "items" in paths else []
    users = [line.message for line in read(paths["users"], "users")] if "users" in paths else []
    # Rows are given in the order in which the live trainer reads the topics, and random draws go by row: the same seed
    # draws the same.
    partitions = settings.kafka.partitions
    return World(
        samples,
        passed_ms,
        sorted((i for i in items if isinstance(i, Item)), key=lambda i: partition_of(i.item_id.encode(), partitions)),
        sorted((u for u in users if isinstance(u, User)), key=lambda u: partition_of(u.user_id.encode(), partitions)),
        dict(join.totals),
        clicks_only,
    )
