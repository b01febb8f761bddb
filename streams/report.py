"""What the loop says about itself: a line per transaction at debug, a summary every few seconds, and metrics."""

import time
from collections.abc import Callable, Iterable, Mapping

from contract import log
from streams import metrics
from streams.idleness import Lane
from streams.join import Join, Source
from streams.transaction import Part

SUMMARY_S = 5.0
SOURCES: tuple[Source, Source] = ("exposures", "clicks")


class Report:
    """Counts since the last summary."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._last_s = time.monotonic()

    def count(self, topic: str, records: int) -> None:
        """Count raw records read."""
        metrics.EVENTS.labels(topic).inc(records)
        self._add(topic, records)

    def committed(self, parts: Iterable[Part], events: int, records: int, took_s: float) -> None:
        """Count what a transaction brought."""
        for batch, drops, letters in parts:
            metrics.SAMPLES.inc(len(batch.samples))
            metrics.OUTCOMES.inc(len(batch.outcomes))
            metrics.HARD_NEGATIVES.inc(len(drops))
            self._add("samples", len(batch.samples))
            self._add("outcomes", len(batch.outcomes))
            self._add("dead_letters", len(batch.dead_letters) + len(letters))
        self._add("transactions", 1)
        log.get().debug("committed", events=events, records=records, ms=round(took_s * 1000))

    def summarise(self, joins: Mapping[int, Join], lag: Callable[[], dict[Lane, int]]) -> None:
        """Every few seconds: one line, and the gauges."""
        now_s = time.monotonic()
        if now_s - self._last_s < SUMMARY_S:
            return
        lags = lag()
        for (source, partition), records in lags.items():
            metrics.LAG.labels(source, partition).set(records)
        for partition, join in joins.items():
            for what, total in join.totals.items():
                metrics.TOTALS.labels(partition, what).set(total)
            for name in SOURCES:
                progress_ms = join.progress_ms(name)
                if progress_ms is not None:
                    metrics.PROGRESS_MS.labels(name, partition).set(progress_ms)
        log.get().info("progress", **self._counts, lag=sum(lags.values()), seconds=round(now_s - self._last_s, 1))
        self._counts, self._last_s = {}, now_s

    def _add(self, what: str, count: int) -> None:
        self._counts[what] = self._counts.get(what, 0) + count
