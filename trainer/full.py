"""The full update at a day border."""

import time

from contract import log
from contract.settings import Settings
from trainer.days import Days
from trainer.learner import Learner
from trainer.reader import again


def full_update(settings: Settings, learner: Learner, days: Days) -> None:
    """Bring the live model to what a full update gives; the caller checkpoints and publishes it as a new version.

    1. read the samples of the days passed, and those since, again from `samples`
    2. learn the day shuffled, from the last full model: that is the new full model
    3. learn what came since incrementally: that is the live model

    Samples that retention has taken are missing from both, with a warning: to stop for them would be to stop for ever.
    """
    begun = time.monotonic()
    day, since = days.take()
    samples = again(settings, day)
    late = again(settings, since)
    wanted = len(day.offset) + len(since.offset)
    if missing := wanted - len(samples) - len(late):
        log.get().warning(
            "samples_gone",
            missing=missing,
            of=wanted,
            topic=settings.names.topic("samples"),
            reason="retention took them before the full update; raise retention.ms of the topic",
        )
    loss = learner.full_update(samples, late)
    log.get().info(
        "full_update",
        samples=len(samples),
        since=len(late),
        loss=round(loss, 4),
        full_updates=learner.state.numbers["full_updates"],
        seconds=round(time.monotonic() - begun, 2),
    )
