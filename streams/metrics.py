"""Numbers of the streams role for Prometheus: counted once the transaction they belong to is committed."""

from prometheus_client import Counter, Gauge, Histogram

EVENTS = Counter("headrace_events", "raw records read, by topic", ["topic"])
SAMPLES = Counter("headrace_samples", "samples written")
OUTCOMES = Counter("headrace_outcomes", "outcomes written")
HARD_NEGATIVES = Counter("headrace_hard_negatives", "checked ranking-drops written onto samples")
DEAD_LETTERS = Counter("headrace_dead_letters", "records refused, by raw topic and reason", ["topic", "reason"])
TOTALS = Gauge(
    "headrace_join_total", "the core's own totals since the namespace began, by partition", ["partition", "what"]
)
TRANSACTIONS = Counter("headrace_transactions", "transactions, by how they ended", ["ended"])
TRANSACTION_SECONDS = Histogram(
    "headrace_transaction_seconds",
    "from the first record produced to the end of the commit",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
REBUILD_SECONDS = Histogram(
    "headrace_rebuild_seconds", "one partition's state from the logs", buckets=(0.1, 0.5, 1, 5, 10, 60, 300)
)
LAG = Gauge("headrace_streams_lag", "records of a raw partition not yet committed", ["topic", "partition"])
PROGRESS_MS = Gauge(
    "headrace_progress_ms", "largest event time of an input's partition, epoch ms", ["topic", "partition"]
)
CHECKED = Counter("headrace_checked", "items and users checked in, by topic and verdict", ["topic", "verdict"])
GROUP_LAG = Gauge(
    "kafka_consumergroup_lag", "records that a group has not committed yet", ["group", "topic", "partition"]
)
GROUP_BEHIND = Gauge(
    "kafka_consumergroup_lag_seconds",
    "time since the arrival of the first record that a group has not committed yet",
    ["group", "topic", "partition"],
)
GROUP_STATE = Gauge(
    "kafka_consumergroup_state",
    "1 for the state that a partition of a group is in: OK, WARN, STOP, STALL, REWIND",
    ["group", "topic", "partition", "state"],
)
