"""`headrace audit`: whether everything derived agrees with the raw events, to the last record.

A list of parts, each of which reads its room's inputs and outputs and gives one Check per kind of record. Nothing is
changed; the roles may run.
"""

from collections.abc import Callable, Sequence

from contract.settings import Settings
from headrace import audit_publisher, audit_streams, audit_trainer
from headrace.audit_compare import Check

COLUMNS = ("part", "what", "expected", "found", "missing", "extra", "duplicated", "different")
Progress = Callable[[int, int], object]  # (records read, records in all) of the part that runs
Part = Callable[[Settings, Progress], list[Check]]
PARTS: tuple[Part, ...] = (audit_streams.check, audit_trainer.check, audit_publisher.check)


def audit(settings: Settings, progress: Progress = lambda _done, _total: None) -> list[Check]:
    """Run every part.

    Raises UnreachableError; RefusedError where a log no longer begins at its beginning, or does not stand still.
    """
    return [check for part in PARTS for check in part(settings, progress)]


def rows(checks: Sequence[Check]) -> list[tuple[object, ...]]:
    """Table of the checks, under COLUMNS."""
    return [tuple(getattr(check, name) for name in COLUMNS) for check in checks]


def differences(checks: Sequence[Check]) -> int:
    """Differences of all checks; the command exits with 1 unless it is 0."""
    return sum(check.differences for check in checks)
