"""The served pointer on `control`: reading it, writing it, going back a version."""

import time

import msgspec
from confluent_kafka import KafkaError, KafkaException, Message

from contract import log
from contract.errors import RefusedError, UnreachableError
from contract.kafka import create_topics, produce, producer, read_to_end
from contract.messages import Served, decoder, encode
from contract.settings import Settings
from publisher import index_files
from publisher.versions import serve

KEY = b"served"
_served = decoder(Served)


def decode(value: bytes) -> Served | None:
    """Pointer of a record's value; None, and a line, when it is none: the pointer before it stands."""
    try:
        pointer: Served = _served.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        log.get().error("control_refused", reason=f"a served pointer was wanted, a record came that is none: {error}")
        return None
    return pointer


def pointer_of(settings: Settings) -> Served | None:
    """The pointer as `control` has it now."""
    last = None
    for message in read_to_end(settings.kafka, settings.names.topic("control"), [0]):
        value = message.value()
        if message.key() == KEY:
            last = None if value is None else decode(bytes(value)) or last
    return last


def write(settings: Settings, pointer: Served) -> None:
    """Write the pointer and wait until Kafka has it; UnreachableError otherwise."""
    target = producer(settings.kafka, acks="all", message_timeout_ms=10_000)
    failed: list[str] = []
    topic = settings.names.topic("control")

    def delivered(error: KafkaError | None, _: Message) -> None:
        if error is not None:
            failed.append(str(error))

    produce(target, topic, encode(pointer), KEY, partition=0, on_delivery=delivered)
    if target.flush(15) or failed:
        raise UnreachableError(f"the served pointer could not be written to {topic}: {failed or 'no answer'}")


def roll_back(settings: Settings, version: int | None = None) -> Served:
    """Serve the version before (or `version`) again; gives the pointer written.

    Rolling back twice goes forward again. The publisher leaves the pointer alone until a version newer than both comes.
    RefusedError when there is nothing to go back to.
    """
    create_topics(settings)
    try:
        pointer = pointer_of(settings)
    except KafkaException as error:
        raise UnreachableError(f"control cannot be read: {error}") from None
    if pointer is None:
        raise RefusedError("no version is served yet: there is nothing to go back to")
    if pointer.namespace != settings.namespace:
        raise RefusedError(
            f"namespace {pointer.namespace} is served, not {settings.namespace}: name it with --namespace"
        )
    to = version if version is not None else pointer.previous
    if to <= 0 or to == pointer.version:
        raise RefusedError(f"version {pointer.version} is served and there is none before it to go back to")
    held = {v for v, _ in index_files.written(settings.files)}
    if held and to not in held:
        raise RefusedError(f"version {to} is no longer kept; kept are {', '.join(map(str, sorted(held)))}")
    back = serve(pointer, settings.namespace, to, int(time.time() * 1000))
    write(settings, back)
    return back
