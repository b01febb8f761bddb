"""What /metrics of the trainer shows."""

from typing import Any

from prometheus_client import Counter, Gauge, Histogram

from trainer.state import State

SAMPLES = Counter("headrace_trainer_samples", "Samples learned since this process started")
STEPS = Histogram("headrace_trainer_step_seconds", "Time of one incremental step, scoring included")
UPDATES = Counter("headrace_trainer_updates", "Updates published", ["kind"])
FULL_UPDATES = Gauge("headrace_trainer_full_updates", "Full updates done")
VERSION = Gauge("headrace_trainer_version", "Version last published")
SEQUENCE = Gauge("headrace_trainer_sequence", "Sequence last published")
LOSS = Gauge("headrace_trainer_loss", "Mean loss of the last step")
ROWS = Gauge("headrace_trainer_rows", "Rows in use", ["table"])
EVENT_MS = Gauge("headrace_trainer_event_ms", "Event time learned up to, epoch milliseconds")
ARRIVAL_MS = Gauge("headrace_trainer_arrival_ms", "Newest click arrival learned, epoch milliseconds")
RECALL = Gauge("headrace_trainer_recall", "Progressive recall_at_k, by the manifest's names", ["metric"])

JUDGED = Counter("headrace_gate_candidates", "Full updates judged since this process started", ["outcome"])
PAIRED = Gauge("headrace_gate_paired_samples", "Samples that the last judged candidate and the served model scored")
GATE_RECALL = Gauge("headrace_gate_recall_at_50", "Of the last judged candidate, and of the served model", ["model"])
HELD = Gauge("headrace_gate_deltas_held", "1 while deltas are not published because the model is not sound")


def judged(facts: dict[str, Any]) -> None:
    """Count a verdict of the gate."""
    JUDGED.labels(facts["outcome"]).inc()
    PAIRED.set(facts["paired"])
    for model in ("served", "candidate"):
        GATE_RECALL.labels(model).set(facts[f"{model}_hits"] / max(facts["paired"], 1))


def show(state: State, version: int, sequence: int) -> None:
    """Set the gauges."""
    FULL_UPDATES.set(state.numbers["full_updates"])
    VERSION.set(version)
    SEQUENCE.set(sequence)
    ROWS.labels("users").set(len(state.users))
    ROWS.labels("items").set(len(state.items))
    EVENT_MS.set(state.numbers["event_ms"])
    ARRIVAL_MS.set(state.numbers["arrival_ms"])
    for name, value in state.recall.metrics().items():
        RECALL.labels(name).set(value)
