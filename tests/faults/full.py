"""Faults of the full update: it is asked for, and its process or the trainer dies at one point of it."""

import uuid
from collections.abc import Callable
from functools import partial

from contract.full_request import FullRequest, leave
from headrace.process import wait_until
from tests.faults.bench import Bench
from tests.faults.fleet import Member

# Not full.shadow: the candidate has its verdict as soon as it has caught up here, so few samples does the gate want.
OF_TRAINER = (
    "full.before_border",
    "full.after_border",
    "full.trial",
    "full.catch_up",
    "full.verdict",
    "full.before_checkpoint",
    "full.after_checkpoint",
)
OF_CHILD = ("full.child", "full.progress", "full.before_candidate", "full.after_candidate")
DIED, JUDGED = b"event=full_update_died", b"event=gate"
REACHED_S = 40.0
JUDGED_S = 60.0


def trainer_dies(point: str, bench: Bench) -> None:
    """Kill the trainer and let it die once more at a point of a full update, which then ends all the same."""
    trainer = bench.fleet.members["trainer"]
    judged = _said(trainer, JUDGED)
    died = bench.fleet.crash_at("trainer", point, 1)
    _ask(bench)
    _see_through(bench, point, trainer, judged, lambda: trainer.deaths() >= died + 2)


def child_dies(point: str, bench: Bench) -> None:
    """Let the full update's own process die at a point; the trainer starts it once more."""
    trainer = bench.fleet.members["trainer"]
    judged, died = _said(trainer, JUDGED), _said(trainer, DIED)
    trainer.crash_point.write_text(f"{point}:1", encoding="utf-8")
    _ask(bench)
    _see_through(bench, point, trainer, judged, lambda: _said(trainer, DIED) > died)


def _ask(bench: Bench) -> None:
    leave(bench.settings.files / "full", FullRequest(uuid.uuid4().hex, day="asked for by the fault bench"))


def _see_through(bench: Bench, point: str, trainer: Member, judged: int, reached: Callable[[], bool]) -> None:
    bench.see_death(point, trainer, "full update" if point in OF_CHILD else "trainer", reached, REACHED_S)
    if not wait_until(lambda: _said(trainer, JUDGED) > judged, JUDGED_S):
        bench.note(f"no verdict after {point}")


def _said(trainer: Member, what: bytes) -> int:
    return trainer.log.read_bytes().count(what)


FAULTS: dict[str, Callable[[Bench], None]] = {
    **{f"at_{point}": partial(trainer_dies, point) for point in OF_TRAINER},
    **{f"at_{point}": partial(child_dies, point) for point in OF_CHILD},
}
