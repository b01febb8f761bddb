"""A worker whose slot somebody else has taken over, because this one stood still for too long (SIGSTOP, a frozen host).

Both ways of taking over end here: the transactional id (KIP-98) and the group's static membership (KIP-345). Woken, a
stopped worker may also rejoin the group first and fence its successor. Whoever is fenced ends, and starts cleanly.
"""

from confluent_kafka import KafkaError, KafkaException

from contract.errors import HeadraceError

FENCED = {
    KafkaError._FENCED,  # noqa: SLF001  (librdkafka's own codes have no public names; likewise below)
    KafkaError.PRODUCER_FENCED,
    KafkaError.INVALID_PRODUCER_EPOCH,
    KafkaError.FENCED_INSTANCE_ID,
}
FATAL = KafkaError._FATAL  # noqa: SLF001


class FencedError(HeadraceError):
    """This worker's slot is another's now: nothing that it had not committed happened."""


def is_fatal(error: KafkaError) -> bool:
    """Whether the client is finished for good; a consumer says so by the code alone."""
    return bool(error.fatal()) or error.code() == FATAL


def fenced(error: Exception, slot: int) -> FencedError | None:
    """What to end with, if it is fencing that ended the loop."""
    cause = error.args[0] if isinstance(error, KafkaException) else None
    if cause is None or not (cause.code() in FENCED or (is_fatal(cause) and "fenced" in cause.str())):
        return None
    return FencedError(
        f"streams slot {slot} was fenced: another worker has taken it over while this one stood still "
        f"({cause.name()}); nothing uncommitted happened, and a new start goes on from what is committed"
    )
