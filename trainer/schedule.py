"""The full update under way, if there is one: its child process, then its candidate on trial.

begin     the state at the border is written, and what is to be learned once more          full_files.py
turn      child: started, started again when it dies                                       child.py, full.py
child has done: the candidate is taken; it learns what was learned since the border,
in the same blocks, read once more by offset                                               candidate.py, trail.py
learned   the candidate has caught up: it learns each block right after the served model
verdict   on the first gate.min_samples samples after the border                           gate.py
end       the verdict is kept, and what is needed no more goes

A checkpoint of the trainer holds what is under way and the trail, not the candidate: after a crash that is made once
more from its files and goes the same way to the same verdict.
"""

import copy
import time
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import torch
from torch import Tensor

from contract import crash, log
from contract.errors import DataLossError
from contract.messages import HardNegatives, Marker, Sample
from contract.settings import Settings
from trainer import full_files
from trainer.candidate import Day, Trial, served_vectors
from trainer.child import Child
from trainer.days import Picks
from trainer.epoch import load_result
from trainer.follow import Follower
from trainer.frequency import I64
from trainer.gate import Paired, Verdict
from trainer.learner import Learner
from trainer.merge import Taken
from trainer.reader import records_at
from trainer.trail import Block, Trail

ATTEMPTS = 5  # of the child
READ_RECORDS = 20_000  # of the trail at once
CATCH_UP_BLOCKS = 4  # at least, of one turn


class UnderWay(msgspec.Struct, frozen=True):
    """A full update, as a checkpoint knows it."""

    number: int
    border_ms: int  # event time
    day: str  # the last one in it
    samples: int
    request: str = ""  # id of the request that asked for it; empty: the schedule
    dry_run: bool = False


class OnTrial(NamedTuple):
    """A candidate, and the features it follows."""

    trial: Trial
    follower: Follower


class Schedule:
    """One full update at a time."""

    def __init__(self, settings: Settings, counts: dict[str, int]) -> None:
        self.settings, self.counts = settings, counts
        self.root = settings.files / "full"
        self.under_way: UnderWay | None = None
        self.trail = Trail()
        self.judged: dict[str, Any] = {}  # the last one
        self._forget()

    def _forget(self) -> None:
        self.child: Child | None = None
        self.candidate: OnTrial | None = None
        self.failure = ""
        self.learned_blocks = 0  # of the trail, by the candidate
        self.new_blocks = 0  # of the trail, since the last turn
        self.read: list[tuple[Block, list[Sample | HardNegatives]]] = []

    # ---- what the loop does ------------------------------------------------------------------------------------------

    def begin(
        self,
        under_way: UnderWay,
        learner: Learner,
        features_at: dict[str, int],
        picks: tuple[Picks, Picks],
        fits: tuple[Paired, Paired],
    ) -> None:
        """Write the border, samples of the day and since; the caller checkpoints, then `turn` starts the child.

        `fits` tell whether the day is anybody's taste: see Days.fits; empty ones of a full update out of turn.
        """
        full_files.write_border(self.path(under_way), learner, *picks, features_at, fits)
        self.under_way, self.trail = under_way, Trail()
        self._forget()
        log.get().info("full_update_begun", **msgspec.structs.asdict(under_way))

    def path(self, under_way: UnderWay) -> Path:
        """Directory of a full update."""
        return full_files.directory(self.root, under_way.number)

    def learned(self, block: list[Taken], ranks: I64) -> None:
        """Note a block that the served model has learned; a candidate that has caught up learns it, too."""
        if self.under_way is None:
            return
        follows = self.caught_up
        self.trail.add([(taken.partition, taken.offset) for taken in block], ranks)
        self.new_blocks += 1
        if follows and self.candidate is not None:
            records = [taken.record for taken in block if not isinstance(taken.record, Marker)]
            self.candidate.trial.step(records, ranks)
            self.learned_blocks += 1
            crash.point("full.shadow")

    def turn(self) -> None:
        """Go on with what is under way, for a moment."""
        if self.under_way is None or self.failure:
            return
        if self.candidate is None:
            self._train(self.under_way)
            return
        self.candidate.follower.poll()
        if self.candidate.follower.unread:  # what changed since the border comes first
            return
        self._catch_up(self.candidate.trial, max(CATCH_UP_BLOCKS, 2 * self.new_blocks))
        self.new_blocks = 0

    @property
    def caught_up(self) -> bool:
        """Whether the candidate has learned all that the served model has learned since the border."""
        ready = self.candidate is not None and not self.candidate.follower.unread
        return ready and self.learned_blocks == len(self.trail)

    @property
    def is_behind(self) -> bool:
        """Whether the candidate has something to catch up."""
        return self.candidate is not None and not self.caught_up

    def waits(self, event_ms: int) -> bool:
        """Whether the served model, which is at `event_ms`, must wait for the candidate."""
        if self.under_way is None or self.caught_up or self.failure:
            return False
        return max(event_ms - self.under_way.border_ms, 0) >= self.settings.full.cutover_deadline_ms

    def verdict(self) -> Verdict | None:
        """Give the gate's verdict once it can be acted on."""
        if self.failure:
            return Verdict("refused", self.failure)
        if self.candidate is None or self.candidate.trial.verdict.outcome == "waiting":
            return None
        verdict = self.candidate.trial.verdict
        return verdict if verdict.outcome == "refused" or self.caught_up else None

    def end(self, verdict: Verdict, *, served: bool) -> None:
        """Keep the verdict; nothing is under way any more. The caller checkpoints, then tidies."""
        if self.under_way is None:
            return
        if self.candidate is not None and not served:
            self.candidate.follower.close()
        paired = self.candidate.trial.paired if self.candidate else None
        self.judged = {
            **msgspec.structs.asdict(self.under_way),
            "outcome": verdict.outcome,
            "reason": verdict.reason,
            "paired": paired.samples if paired else 0,
            "served_hits": paired.served if paired else 0,
            "candidate_hits": paired.candidate if paired else 0,
        }
        full_files.write_verdict(self.path(self.under_way), self.judged)
        say = log.get().info if verdict.outcome == "passed" else log.get().warning
        say("gate", **self.judged)
        self.under_way, self.trail = None, Trail()
        self._forget()

    def tidy(self) -> None:
        """Remove the files of what is over; a checkpoint holds what is left of it."""
        full_files.tidy(self.root, self.under_way.number if self.under_way else None)

    def close(self) -> None:
        """End the child, and leave Kafka."""
        if self.child is not None:
            self.child.stop()
        if self.candidate is not None:
            self.candidate.follower.close()

    def shown(self) -> dict[str, Any]:
        """What /healthz says."""
        found: dict[str, Any] = {"phase": "none", "last": self.judged or None}
        if self.under_way is not None:
            found |= msgspec.structs.asdict(self.under_way) | {"phase": "training"}
        if (child := self.child) is not None:
            found["deaths"] = child.deaths
        if (candidate := self.candidate) is not None:
            found["phase"] = "shadowing" if self.caught_up else "catching up"
            found |= {"paired": candidate.trial.paired.samples, "wanted": candidate.trial.min_samples}
        return found

    # ---- training ----------------------------------------------------------------------------------------------------

    def _train(self, under_way: UnderWay) -> None:
        """Look after the child, until it has done."""
        path = self.path(under_way)
        if self.child is None:
            self.child = Child(self.settings, path)
            if full_files.is_done(path):
                self._take(path)
                return
        if self.child.has_done() or (self.child.deaths and full_files.is_done(path)):
            self._take(path)
        elif self.child.deaths >= ATTEMPTS:
            self.failure = f"its process died {self.child.deaths} times, last with exit code {self.child.code}"

    def _take(self, path: Path) -> None:
        """Put the candidate on trial; one whose file is spoilt is trained once more."""
        try:
            border, result = full_files.read_border(path), full_files.read(path / "candidate")
        except DataLossError as error:
            self.failure = str(error)
            return
        if result is None:
            return
        settings = self.settings
        learner = Learner(settings.model, settings.train, settings.full, settings.history.length)
        full_files.as_at_border(learner, border)
        served, before = served_vectors(learner), copy.deepcopy(learner.state.full)
        load_result(learner, result)
        follower = Follower(settings, learner.state, self.counts, border.features_at)
        gate = settings.gate
        item, share = result.plain["top"]
        day = Day(item, share, result.plain["day"], gate.item_share, *border.fits)
        trial = Trial(learner, served, before, day, gate.min_samples, gate.tolerance)
        self.candidate = OnTrial(trial, follower)
        crash.point("full.trial")

    # ---- catch-up ----------------------------------------------------------------------------------------------------

    def _catch_up(self, trial: Trial, most: int) -> None:
        end = time.monotonic() + 1.0  # the served model is not kept waiting for longer
        for _ in range(min(most, len(self.trail) - self.learned_blocks)):
            if not self.read:
                self._read_on()
            block, records = self.read.pop(0)
            trial.step(records, block.ranks)
            self.learned_blocks += 1
            crash.point("full.catch_up")
            if time.monotonic() > end:
                return

    def _read_on(self) -> None:
        """Read the next blocks of the trail once more, without what retention has taken."""
        blocks = self.trail.blocks(self.learned_blocks, READ_RECORDS)
        places = [block.picks for block in blocks]
        whole = Picks(*(np.concatenate(parts) for parts in zip(*places, strict=True)))
        found = records_at(self.settings, whole)
        for block in blocks:
            there = [n for n, at in enumerate(block.picks.places()) if at in found]
            records = [found[at] for at in block.picks.places() if at in found]
            self.read.append((Block(block.picks, block.ranks[there]), records))

    # ---- a checkpoint's part -----------------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and plain values for a checkpoint."""
        tensors = {f"trail.{name}": torch.from_numpy(array) for name, array in self.trail.state().items()}
        under_way = None if self.under_way is None else msgspec.structs.asdict(self.under_way)
        return tensors, {"full": {"under_way": under_way, "judged": self.judged}}

    def load(self, tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
        """Take what `state` gave; a checkpoint of before knows nothing of this."""
        full = plain.get("full")
        if full is None:
            return
        self.judged = full["judged"]
        if full["under_way"] is not None:
            self.under_way = UnderWay(**full["under_way"])
        self.trail.load({n.removeprefix("trail."): t.numpy() for n, t in tensors.items() if n.startswith("trail.")})
