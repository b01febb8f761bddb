"""The loop in uncommon lives, on a real Kafka: one input far ahead, clicks only, and a worker that was stopped."""

import contextlib
import signal
import time

import pytest

from contract import kafka
from contract.messages import Click, Exposure
from streams.idleness import Lane
from streams.inputs import Inputs
from tests.conftest import SettingsFactory
from tests.streams.evidence import (
    SHORT,
    START_MS,
    caught_up,
    process,
    records,
    same_as_offline,
    send,
    stream,
    wait,
    worker,
)


def test_an_input_far_ahead_waits_for_the_other(settings: SettingsFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """While catching up an input is held, and only while the other is not known to be at its end; nothing changes."""
    made = settings(**SHORT, **{"join.max_ahead_ms": 5_000, "streams.batch_records": 50})
    kafka.create_topics(made)
    send(made, stream(3_000, seed=3))
    hold, held = Inputs.hold, list[Lane]()

    def noted(self: Inputs, lane: Lane) -> None:
        other = "clicks" if lane[0] == "exposures" else "exposures"
        assert self.end((other, lane[1])) is None
        held.append(lane)
        hold(self, lane)
        assert len(self._inbox[lane]) <= 3 * 50 + 50  # paused: what waits in memory is bounded

    monkeypatch.setattr(Inputs, "hold", noted)
    with worker(made):
        wait(lambda: caught_up(made))
    assert held
    assert same_as_offline(made)["samples"] > 300


def test_an_empty_input_holds_none(settings: SettingsFactory) -> None:
    """With clicks empty, exposures are read to their end at once, however far that is in event time."""
    made = settings(**SHORT, **{"join.max_ahead_ms": 0, "join.idle_timeout_ms": 60_000})
    kafka.create_topics(made)
    send(made, iter(("exposures", Exposure(f"r{n}", f"u{n % 7}", START_MS + n * 60_000, ["i1"])) for n in range(200)))
    with worker(made):
        wait(lambda: caught_up(made))


def test_clicks_only(settings: SettingsFactory) -> None:
    """Without exposures every valid click is a sample at once, each once, also after kill -9; lag 0 at the end."""
    made = settings(**SHORT, **{"join.mode": "clicks-only"})
    kafka.create_topics(made)
    clicks = [event for event in stream(800, seed=4) if isinstance(event[1], Click)]
    half = len(clicks) // 2
    send(made, iter(clicks[:half]))
    with process(made, crash_point="streams.before_commit:2") as running:
        assert running.wait(30) == -signal.SIGKILL
    send(made, iter(clicks[half:]))
    with worker(made):
        wait(lambda: caught_up(made, ("clicks",)))
    counts = same_as_offline(made)
    assert counts["samples"] > 200
    assert not list(records(made, "outcomes"))


def test_a_worker_that_was_stopped_is_fenced(settings: SettingsFactory) -> None:
    """SIGSTOP past the session time-out: another takes over; woken, the old one writes nothing twice and is back."""
    made = settings(**SHORT)
    kafka.create_topics(made)
    send(made, stream(200, seed=5))
    with process(made) as zombie:
        wait(lambda: caught_up(made))
        send(made, stream(200, seed=6, start_ms=START_MS + 100_000))
        zombie.send_signal(signal.SIGSTOP)
        with worker(made, slot=1) as other:
            wait(lambda: other.health()["partitions"] == [0, 1, 2, 3], 40)
            send(made, stream(200, seed=7, start_ms=START_MS + 200_000))
            wait(lambda: caught_up(made))
            zombie.send_signal(signal.SIGCONT)
            send(made, stream(200, seed=8, start_ms=START_MS + 300_000))
            time.sleep(1)
            with process(made) if zombie.poll() is not None else contextlib.nullcontext():
                wait(lambda: len(other.health()["partitions"]) == 2, 40)
                send(made, stream(200, seed=9, start_ms=START_MS + 400_000))
                wait(lambda: caught_up(made))
    assert same_as_offline(made)["samples"] > 100
