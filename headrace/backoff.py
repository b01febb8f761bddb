"""When a process that ended is started again (pure)."""

FIRST_S = 0.1
LONGEST_S = 15.0
WELL_S = 30.0


def delay_s(failures: int) -> float:
    """Wait before the next start after so many failures in a row (from 1): .1, .2, .4 .. 15 seconds."""
    return float(min(LONGEST_S, FIRST_S * 2 ** (failures - 1)))


def failures_after(failures: int, ran_s: float) -> int:
    """Failures in a row once a process that ran for `ran_s` has ended; a good while of running forgives all."""
    return 1 if ran_s >= WELL_S else failures + 1
