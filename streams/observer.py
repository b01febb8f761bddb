"""Watches all groups of the namespace while the streams role runs, for /lag and /metrics."""

import time
from threading import Event
from typing import Any

from confluent_kafka import KafkaException

from contract import log
from contract.errors import UnreachableError
from contract.settings import Settings
from streams import groups, metrics
from streams.lag import Row, State, Watch, interval_s


class Observer:
    """Looks at the groups every few seconds; `run` blocks until `ending` is set."""

    def __init__(self, settings: Settings, ending: Event) -> None:
        self._settings, self._ending, self._watch = settings, ending, Watch()
        self._rows: list[Row] = []

    def run(self) -> None:
        """Look again and again; a Kafka that does not answer is looked for again."""
        pause_s = interval_s(self._settings.train.checkpoint_interval_ms)
        while not self._ending.wait(pause_s):
            try:
                rows = groups.lag(self._settings)
            except (UnreachableError, KafkaException) as error:
                log.get().debug("groups not seen", text=str(error))
                continue
            self._rows = self._watch.add(rows, time.time_ns() // 1_000_000)
            _show(self._rows)

    def rows(self) -> list[dict[str, Any]]:
        """Answer of /lag: every group's partitions as last seen, with the looks that their states come from."""
        told = []
        for row in self._rows:
            looks = self._watch.looks[row.group, row.topic, row.partition]
            fields = {name: getattr(row, name) for name in row.__struct_fields__}
            one = [[look.at_ms, look.committed, look.lag, look.group_committed] for look in list(looks)]
            told.append(fields | {"state": row.state.value, "looks": one})
        return told


def _show(rows: list[Row]) -> None:
    for row in rows:
        at = (row.group, row.topic, row.partition)
        metrics.GROUP_LAG.labels(*at).set(row.lag)
        metrics.GROUP_BEHIND.labels(*at).set(row.behind_s)
        for state in State:
            metrics.GROUP_STATE.labels(*at, state.value).set(state is row.state)
