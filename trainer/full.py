"""The full update, as a process of its own: python -m trainer.full DIRECTORY. Started by the trainer, ends with it.

1. take the state as it was at the day border              full_files.py
2. read the day's samples once more, by offset             reader.py
3. learn them shuffled, from the last full model; keep the place from time to time     epoch.py
4. learn what came since the border was passed, incrementally
5. write the candidate
"""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import torch

from contract import crash, log
from contract.messages import Sample
from contract.settings import Settings, load
from trainer import full_files
from trainer.days import Picks
from trainer.epoch import Epoch
from trainer.learner import Learner
from trainer.reader import again

NICE = 5  # what is served goes first


def main() -> None:
    """Do one full update."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends it
    threading.Thread(target=_end_with_parent, name="leash", daemon=True).start()
    os.nice(NICE)
    settings = load()
    log.set_up("trainer.full", settings.log_level)
    torch.set_num_threads(settings.train.threads)
    full_update(settings, Path(sys.argv[1]))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # torch and Kafka's clients would take seconds to tidy up


def _end_with_parent() -> None:
    """The pipe on standard input ends when the parent does, however it dies."""
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)


def full_update(settings: Settings, path: Path) -> None:
    """Bring the full update in `path` to its end, from wherever it is."""
    begun = time.monotonic()
    border = full_files.read_border(path)
    learner = Learner(settings.model, settings.train, settings.full, settings.history.length)
    full_files.as_at_border(learner, border)
    crash.point("full.child")
    day, since = _read(settings, border.day), _read(settings, border.since)
    epoch = Epoch(learner, day)
    resumed = (place := full_files.read(path / "progress")) is not None and epoch.load(place)
    kept_at = time.monotonic() if resumed else 0.0  # the first place is kept at once: a full disk shows before the work
    while not epoch.over:
        epoch.step()
        if time.monotonic() - kept_at > settings.train.checkpoint_interval_ms / 1000:
            full_files.write_progress(path, epoch.packed())
            kept_at = time.monotonic()
    epoch.finish(since)
    full_files.write_candidate(path, epoch.result())
    log.get().info(
        "full_update",
        number=learner.state.numbers["candidates"],
        samples=len(day),
        since=len(since),
        loss=round(epoch.loss, 4),
        resumed=resumed,
        seconds=round(time.monotonic() - begun, 2),
    )


def _read(settings: Settings, picks: Picks) -> list[Sample]:
    """Samples once more; those that retention has taken are missing: to stop for them would be to stop for ever."""
    samples = again(settings, picks)
    if missing := len(picks.offset) - len(samples):
        log.get().warning(
            "samples_gone",
            missing=missing,
            of=len(picks.offset),
            topic=settings.names.topic("samples"),
            reason="retention took them before the full update; raise retention.ms of the topic",
        )
    return samples


if __name__ == "__main__":
    main()
