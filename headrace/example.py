"""The example is replayed once in the life of a Kafka, whatever dies in between.

Its records carry the replay's name and line in a header, so a replay that was cut short goes on exactly where it
stopped (streams/resume.py); example.json only saves the look.
"""

from collections.abc import Callable
from pathlib import Path

from confluent_kafka import TopicPartition
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from contract import kafka as edge
from contract.settings import Settings
from headrace import stack
from headrace.show import err
from streams.produce import replay_directory

SAID_EVERY = 0.25  # of the whole, where nobody looks at a terminal


def replay_once(settings: Settings, directory: Path, speed: float, say: Callable[[str], None]) -> bool:
    """Replay a directory of events into the raw topics unless this Kafka has had them; True if something was sent."""
    edge.create_topics(settings)
    client = edge.reach(settings.kafka)
    where = f"{client.list_topics(timeout=10).cluster_id}/{settings.topic_prefix}{directory.name}"
    mark = settings.data_dir / "example.json"
    done = stack.read_json(mark) or {}
    if where in done and _holds_events(settings):
        return False
    say(f"replaying {directory.name}")
    with _shown(say) as progress:
        sent = replay_directory(settings, directory, speed, progress, resume=f"example-{directory.name}")
    stack.write_json(mark, done | {where: sent})
    say(f"replayed {directory.name}: " + ", ".join(f"{count:,} {topic}" for topic, count in sent.items()))
    return sum(sent.values()) > 0


def _holds_events(settings: Settings) -> bool:
    """Whether the raw topics are still there: the data of a local Kafka may have been removed beside our mark."""
    client = edge.admin(settings.kafka)
    counts = edge.partition_counts(client)
    topics = [settings.names.topic(topic) for topic in ("exposures", "clicks")]
    places = [TopicPartition(topic, p) for topic in topics for p in range(counts.get(topic, 0))]
    return any(end > 0 for end in edge.end_offsets(client, places).values())


class _shown:  # noqa: N801  (used as a function: `with _shown(say) as progress`)
    """A progress bar on a terminal, a line at each quarter elsewhere."""

    def __init__(self, say: Callable[[str], None]) -> None:
        columns = (TextColumn("replaying"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._say, self._said = say, 0.0
        self._bar = Progress(*columns, console=err(), transient=True, disable=not err().is_terminal)

    def __enter__(self) -> Callable[[int, int], None]:
        self._bar.start()
        self._task = self._bar.add_task("replay", total=None)
        return self._progress

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def _progress(self, done: int, total: int) -> None:
        self._bar.update(self._task, completed=done, total=total)
        if self._bar.disable and done / total >= self._said + SAID_EVERY:
            self._said = done / total
            self._say(f"replayed {done:,} of {total:,} lines")
