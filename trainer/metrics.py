"""What /metrics of the trainer shows."""

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
