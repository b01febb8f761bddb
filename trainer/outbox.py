"""What the trainer publishes, and when: deltas that the watch lets through, snapshots, one version after the other."""

import time
from typing import Literal

from contract import log
from contract.settings import Settings
from trainer import delta, metrics
from trainer.state import State
from trainer.watch import Watch
from trainer.writer import Writer

DELTA_GAP_S = 1.0  # at most one delta in this time


class Outbox:
    """Version and sequence of what was published last, and what waits."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.watch = Watch(settings.gate.min_samples, settings.gate.drop)
        self.version, self.sequence = 0, -1
        self.unpublished_since = 0.0  # 0: nothing waits
        self._published_at, self._event_ms = time.monotonic(), 0

    def open(self, event_ms: int) -> None:
        """Fence the writer before us."""
        self._writer, self._event_ms = Writer(self.settings), event_ms

    def come_after_what_stands(self) -> bool:
        """Number what comes next by what stands on `updates`; give whether a snapshot must follow."""
        last_version, last_sequence = self._writer.last()
        if last_version > self.version:  # also when nothing is known here but updates has versions
            self.version, self.sequence = last_version + 1, -1
        elif self.version == 0:
            self.version = 1
        elif last_version == self.version:
            # rows published past the checkpoint are put back under the next sequence
            ahead, self.sequence = last_sequence > self.sequence, last_sequence
            return ahead
        else:
            self.sequence = -1
        return True

    def new_version(self, scored: int) -> None:
        """Another model is live, of which nothing is published; so many samples were scored before."""
        self.version, self.sequence = self.version + 1, -1
        self.watch.forget(scored)

    def note(self, state: State) -> None:
        """Something may have changed."""
        if not self.unpublished_since and delta.unpublished(state):
            self.unpublished_since = time.monotonic()

    @property
    def waits(self) -> bool:
        """Whether something is to go out soon; what is held is not."""
        return bool(self.unpublished_since) and not self.watch.reason

    def publish_if_due(self, state: State) -> None:
        """A delta at the interval of event time, or when rows have waited long enough; at most one a second."""
        now, publish = time.monotonic(), self.settings.publish
        if not self.unpublished_since or now - self._published_at < DELTA_GAP_S:
            return
        event_ms = state.numbers["event_ms"] - self._event_ms
        if event_ms < publish.interval_ms and now - self.unpublished_since < publish.max_wait_ms / 1000:
            return
        if self._is_held(state):
            self._published_at = now  # it is looked at again after the gap
        elif self.sequence + 1 >= publish.snapshot_deltas and (self.sequence + 1) % publish.snapshot_deltas == 0:
            self.publish_snapshot(state)
        else:
            self._publish("delta", state)

    def _is_held(self, state: State) -> bool:
        """Ask the watch; say so when its answer changes."""
        before, reason = self.watch.reason, self.watch.holds(state)
        if bool(reason) != bool(before):
            metrics.HELD.set(bool(reason))
            if reason:
                log.get().warning("deltas_held", version=self.version, seq=self.sequence, reason=reason)
            else:
                log.get().info("deltas_go_on", version=self.version, seq=self.sequence)
        return bool(reason)

    def publish_snapshot(self, state: State) -> None:
        """Everything, as the next sequence of the version."""
        self._publish("snapshot", state)

    def _publish(self, kind: Literal["snapshot", "delta"], state: State) -> None:
        settings = self.settings
        delta.touch_drifted(state, settings.model.prior_half_life_clicks)
        chunks = delta.update(
            kind,
            self.version,
            self.sequence + 1,
            state,
            settings.model,
            settings.history.length,
            int(time.time() * 1000),
            settings.publish.chunk_bytes,
        )
        size = self._writer.write(chunks)
        self.sequence += 1
        delta.published(state, whole=kind == "snapshot")
        self._published_at, self.unpublished_since = time.monotonic(), 0.0
        self._event_ms = state.numbers["event_ms"]
        metrics.UPDATES.labels(kind).inc()
        metrics.HELD.set(0)
        metrics.show(state, self.version, self.sequence)
        log.get().info(
            "published",
            kind=kind,
            version=self.version,
            seq=self.sequence,
            chunks=len(chunks),
            bytes=size,
            samples=state.numbers["samples"],
            event_ms=state.numbers["event_ms"],
        )
