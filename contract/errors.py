"""Every error that a person may read, as one tree.

HeadraceError                  base: one clear line; the command line prints it and exits with `exit_code`
├── BadInputError      (2)     what was wanted, what came, where, what to do
│   └── SettingsError          one or more settings contradict each other or their bounds
├── UnreachableError   (3)     Kafka, Redis or a role does not answer; says what to check
├── RefusedError       (2)     asked for something that would break a guarantee; says the way out
├── DataLossError      (4)     a log no longer holds what is needed, or a stored thing is corrupt; stops loudly
└── InternalError      (1)     a law of ours does not hold; a bug
"""


class HeadraceError(Exception):
    """Base of all errors of ours; its text is one line fit for a person."""

    exit_code = 1


class BadInputError(HeadraceError):
    """Input that cannot be taken: what was wanted, what came, where, what to do."""

    exit_code = 2


class SettingsError(BadInputError):
    """Settings that are out of bounds or contradict each other (all of them, in one text)."""


class UnreachableError(HeadraceError):
    """Something that should answer does not; the text names it and what to check."""

    exit_code = 3


class RefusedError(HeadraceError):
    """An operation that would break a guarantee; the text says the way out."""

    exit_code = 2


class DataLossError(HeadraceError):
    """What is needed is gone or corrupt; going on would lose or double events."""

    exit_code = 4


class InternalError(HeadraceError):
    """A law of ours does not hold: a bug."""
