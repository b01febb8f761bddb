"""The trainer's loop. A recipe; read it top to bottom.

wait for Kafka, hold the lock
load the newest whole checkpoint                     checkpoint.py, packing.py
fence the writer before us, see what stands on updates    writer.py
read catalogue and profiles to their ends            follow.py
publish a snapshot if updates has none of ours, or goes further than the checkpoint
for ever:
take new features                                follow.py
take samples in their order                      reader.py, merge.py
B of them, or after max_wait: score, learn, count    learner.py
a day border is passed, or it is asked for: a full update begins in a child process     days.py, schedule.py, full.py
it has done: its candidate goes the same way from the border on, scored beside what is served      candidate.py
the gate passes it: serve it as a new version; or refuses it: drop it      gate.py
a delta is due: publish what was touched, while it is sound       outbox.py, watch.py, delta.py, writer.py
a checkpoint is due: write it, then commit its offsets
"""

import signal
import threading
import time
from datetime import date
from typing import Any

import torch
from confluent_kafka import KafkaException

from contract import crash, full_request, health, kafka, log
from contract.errors import RefusedError, UnreachableError
from contract.full_request import FullRequest
from contract.messages import HardNegatives, Marker, Sample
from contract.settings import Settings
from trainer import checkpoint, metrics
from trainer.candidate import cut_over
from trainer.days import Days, Picks
from trainer.follow import Follower
from trainer.gate import Paired
from trainer.learner import Learner
from trainer.merge import Merge, Taken
from trainer.outbox import Outbox
from trainer.packing import Packed, pack, unpack
from trainer.reader import Reader
from trainer.schedule import Schedule, UnderWay

POLL_S = 0.05
QUIET_S = 0.5  # all is learned for this long: checkpoint, so that lag shows 0
WINDOW_STEPS = 100  # steps of one log line
RETRY_S = 1.0
SCHEDULED = FullRequest(id="")


def run(settings: Settings) -> None:
    """Train until SIGTERM or SIGINT."""
    log.set_up("trainer", settings.log_level)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    torch.set_num_threads(settings.train.threads)
    with checkpoint.locked(settings.files / "checkpoints"):
        if not _kafka_is_there(settings, stop):
            return
        loop = Loop(settings)
        server = health.serve(settings.train.port, loop.health, settings.pages_host)
        try:
            if loop.start(stop):
                while not stop.is_set():
                    loop.turn()
                loop.checkpoint()
        finally:
            server.shutdown()
            loop.close()


def _kafka_is_there(settings: Settings, stop: threading.Event) -> bool:
    while not stop.is_set():
        try:
            kafka.create_topics(settings)
        except (UnreachableError, KafkaException) as error:
            log.get().warning("waiting", reason=str(error))
            stop.wait(RETRY_S)
        else:
            return True
    return False


class Loop:
    """The state of the edge: clients, what is pending, what is due. One thread runs it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.directory = settings.files / "checkpoints"
        self.learner = Learner(settings.model, settings.train, settings.full, settings.history.length)
        self.days = Days(settings.full.time_zone, settings.full.min_samples)
        counts = kafka.partition_counts(kafka.admin(settings.kafka))
        self.partitions = counts[settings.names.topic("samples")]
        self.merge = Merge(list(range(self.partitions)))
        self.schedule = Schedule(settings, counts)
        self.out = Outbox(settings)
        self.epoch = 1
        offsets = self._restore()
        self.out.open(self.learner.state.numbers["event_ms"])
        self.follower = Follower(settings, self.learner.state, counts)
        self.reader = Reader(settings, self.partitions, offsets, self.merge)
        self.pending: list[Taken] = []
        self.coming: list[Taken] = []  # taken, and neither pending nor done with
        self.pending_samples = 0
        self.pending_since = 0.0
        self.learned = False  # since the last checkpoint
        self.committed: dict[int, int] = {}
        now = time.monotonic()
        self.checkpoint_at = self.learned_at = now
        self.window: list[float] = []  # losses

    # ---- start -------------------------------------------------------------------------------------------------------

    def _restore(self) -> dict[int, int]:
        """Take the newest checkpoint; give the offsets from which to go on."""
        loaded = checkpoint.load(self.directory)
        if loaded is None:
            return {}
        manifest, packed = loaded
        if manifest.shape != self._shape():
            raise RefusedError(
                f"the checkpoint in {self.directory} has {manifest.shape}, the settings say {self._shape()}: "
                "a model of another shape needs a namespace of its own (--namespace NAME)"
            )
        unpack(self.learner.state, packed)
        self.days.load({n.removeprefix("days."): t.numpy() for n, t in packed.tensors.items() if n.startswith("days.")})
        self.merge.load(manifest.lanes)
        self.schedule.load(packed.tensors, packed.plain)
        self.out.watch.load(packed.plain)
        self.epoch = manifest.epoch + 1
        self.out.version, self.out.sequence = manifest.version, manifest.sequence
        log.get().info("resumed", samples=manifest.samples, version=manifest.version, sequence=manifest.sequence)
        return {int(p): offset for p, offset in manifest.offsets.items()}

    def _shape(self) -> dict[str, int]:
        model = self.settings.model
        return {"dim": model.dim, "hidden": model.hidden, "bags": len(model.history_decays)}

    def start(self, stop: threading.Event) -> bool:
        """Features first, then a version to serve; False: stopped before the features were read."""
        if not self.follower.start(stop):
            return False
        if self.out.come_after_what_stands():
            self.out.publish_snapshot(self.learner.state)
            self.checkpoint()
        self.schedule.tidy()
        self.begin_if_owed()
        return True

    # ---- one turn ----------------------------------------------------------------------------------------------------

    def turn(self) -> None:
        """Poll once and do all that is due."""
        if self.follower.poll():
            self.out.note(self.learner.state)
        self.reader.poll(0 if self.schedule.is_behind else POLL_S)
        while not self.waits() and (taken := self.merge.next()) is not None:
            self.take(taken)
            self.out.publish_if_due(self.learner.state)
        if self.merge.caught_up() and not self.waits():
            self.border_if_passed()  # a marker was the last that came
        late = time.monotonic() - self.pending_since > self.settings.train.max_wait_ms / 1000
        if self.pending and late and not self.waits():
            self.learn()
        self.schedule.turn()
        self.settle()
        self.begin_if_asked()
        self.out.publish_if_due(self.learner.state)
        self.checkpoint_if_due()

    def take(self, taken: Taken) -> None:
        """Put a record where it belongs."""
        self.coming = [taken]  # a checkpoint at the border does not cover it
        if isinstance(taken.record, Marker) or taken.record.ts_ms >= self.days.next_ms:
            self.border_if_passed()
        self.coming = []
        match taken.record:
            case Sample() | HardNegatives():
                if not self.pending:
                    self.pending_since = time.monotonic()
                self.pending.append(taken)
                self.pending_samples += isinstance(taken.record, Sample)
                if self.pending_samples == self.settings.train.batch:
                    self.learn()

    def learn(self) -> None:
        """Score, learn and count what is pending."""
        begun = time.monotonic()
        records = [taken.record for taken in self.pending if not isinstance(taken.record, Marker)]
        loss = self.learner.step(records)
        self.schedule.learned(self.pending, self.learner.ranks)
        both = zip(self.learner.ranks.tolist(), self.learner.popularity_ranks.tolist(), strict=True)
        for taken, ranks in zip(self.pending, both, strict=True):
            if isinstance(taken.record, Sample):
                self.days.add(taken.partition, taken.offset, taken.record.ts_ms, *ranks)
        metrics.SAMPLES.inc(self.pending_samples)
        self.pending, self.pending_samples = [], 0
        self.learned, self.learned_at = True, time.monotonic()
        metrics.STEPS.observe(self.learned_at - begun)
        if loss is not None:
            metrics.LOSS.set(loss)
            self.window.append(loss)
        if len(self.window) == WINDOW_STEPS:
            self.say_window()
        self.out.note(self.learner.state)
        self.settle()

    def say_window(self) -> None:
        """One line per window of steps."""
        if not self.window:
            return
        state = self.learner.state
        found = state.recall.metrics()
        log.get().info(
            "learned",
            steps=len(self.window),
            samples=state.numbers["samples"],
            loss=round(sum(self.window) / len(self.window), 4),
            recall_at_50=round(found.get("recall_at_50", 0.0), 4),
            popularity_recall_at_50=round(found.get("popularity_recall_at_50", 0.0), 4),
            event_ms=state.numbers["event_ms"],
            users=len(state.users),
            items=len(state.items),
        )
        self.window = []

    # ---- full updates ------------------------------------------------------------------------------------------------

    def border_if_passed(self) -> None:
        """Stream time may be in a new day."""
        passed_ms = self.merge.passed_ms()
        if passed_ms is None or passed_ms < self.days.next_ms:
            return
        if self.pending:
            self.learn()
        if self.days.passed(passed_ms) and self.schedule.under_way is None:
            self.begin(passed_ms, *self.days.take())

    def begin_if_owed(self) -> None:
        """A border was passed while a candidate was on trial: its full update begins now."""
        if self.days.due() and self.schedule.under_way is None:
            self.begin(self.learner.state.numbers["event_ms"], *self.days.take())

    def begin_if_asked(self) -> None:
        """Somebody has left a request."""
        root = self.schedule.root
        if self.schedule.under_way is not None or (request := full_request.look(root)) is None:
            return
        if request.id != self.schedule.judged.get("request"):
            if self.pending:
                self.learn()
            places = list(zip(request.partition, request.offset, strict=True))
            picks = self.days.ask(places, keep=request.dry_run)
            self.begin(self.learner.state.numbers["event_ms"], *picks, request)
        full_request.take(root)

    def begin(self, border_ms: int, day: Picks, since: Picks, request: FullRequest = SCHEDULED) -> None:
        """Begin a full update of samples of some days; `since` were learned, too, and are of a later day."""
        self.say_window()
        state = self.learner.state
        state.numbers["candidates"] += 1
        last = date.fromordinal(max(self.days.today - 1, 1)).isoformat()
        under_way = UnderWay(
            state.numbers["candidates"], border_ms, request.day or last, len(day.offset), request.id, request.dry_run
        )
        fits = (Paired(), Paired()) if request.id else self.days.fits
        self.schedule.begin(under_way, self.learner, self.follower.positions(), (day, since), fits)
        self.checkpoint()

    def waits(self) -> bool:
        """Whether no more is learned before the candidate has come as far."""
        return self.schedule.waits(self.learner.state.numbers["event_ms"])

    def settle(self) -> None:
        """Act on the gate's verdict, once there is one: serve the candidate as a new version, or drop it."""
        verdict, under_way, candidate = self.schedule.verdict(), self.schedule.under_way, self.schedule.candidate
        if verdict is None or under_way is None:
            return
        crash.point("full.verdict")
        passed = verdict.outcome == "passed" and not under_way.dry_run
        if passed and candidate is not None:
            self.learner = cut_over(self.learner, candidate.trial.learner)
            self.follower.close()
            self.follower = candidate.follower
            self.out.new_version(self.learner.state.recall.scored)
        self.schedule.end(verdict, served=passed)
        metrics.judged(self.schedule.judged)
        crash.point("full.before_checkpoint")
        self.checkpoint()  # before it is published: the version on updates is never newer than a checkpoint
        crash.point("full.after_checkpoint")
        if passed:
            self.out.publish_snapshot(self.learner.state)
        self.schedule.tidy()
        self.begin_if_owed()

    # ---- checkpoint --------------------------------------------------------------------------------------------------

    def checkpoint_if_due(self) -> None:
        """At the interval while samples come, and soon after all is learned."""
        now = time.monotonic()
        interval_s = self.settings.train.checkpoint_interval_ms / 1000
        if self.learned and now - self.checkpoint_at >= interval_s:
            self.checkpoint()
        elif not self.pending and self.merge.caught_up() and now - self.learned_at > QUIET_S:
            if self.learned and not self.out.waits:
                self.checkpoint()
            elif not self.learned:
                self.commit(self.reader.positions(self.pending))  # only markers since the last checkpoint

    def checkpoint(self) -> None:
        """Write everything, then tell Kafka how far it goes."""
        begun = time.monotonic()
        unlearned = self.pending + self.coming
        state, offsets = self.learner.state, self.reader.positions(unlearned)
        packed = pack(state)
        days = {f"days.{name}": torch.from_numpy(array) for name, array in self.days.state().items()}
        manifest = checkpoint.Manifest(
            epoch=self.epoch,
            version=self.out.version,
            sequence=self.out.sequence,
            samples=state.numbers["samples"],
            offsets={str(p): offset for p, offset in offsets.items()},
            shape=self._shape(),
            lanes=self.merge.state(unlearned),
        )
        tensors, plain = self.schedule.state()
        whole = Packed(packed.tensors | days | tensors, packed.plain | plain | self.out.watch.state())
        path = checkpoint.save(self.directory, manifest, whole)
        self.learned, self.checkpoint_at = False, time.monotonic()
        self.commit(offsets)
        log.get().info(
            "checkpoint",
            path=path.name,
            samples=manifest.samples,
            version=self.out.version,
            seq=self.out.sequence,
            seconds=round(time.monotonic() - begun, 3),
        )

    def commit(self, offsets: dict[int, int]) -> None:
        """Commit offsets that a checkpoint covers; while Kafka is away, the next one does."""
        if offsets == self.committed:
            return
        try:
            self.reader.commit(offsets)
            self.committed = offsets
        except KafkaException as error:
            log.get().warning("commit_failed", reason=error.args[0].name())

    def health(self) -> dict[str, Any]:
        """Body of /healthz."""
        numbers = self.learner.state.numbers
        gate = {"full": self.schedule.shown(), "gathered": len(self.days.offset), "held": self.out.watch.reason}
        served = {"version": self.out.version, "sequence": self.out.sequence, **numbers}
        return {"status": "ok", "role": "trainer", "group": self.settings.names.group("trainer"), **served, **gate}

    def close(self) -> None:
        """Leave Kafka, end the child."""
        self.schedule.close()
        self.reader.close()
        self.follower.close()
