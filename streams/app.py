"""The streams role: a Faust app that hosts the transactional loop, checks items and users in, and serves its pages.

No correctness of the join rests on Faust: the loop runs in a thread of its own (streams.processor). Faust gives the
worker's life cycle, the pages /healthz /metrics /lag, and the agents of the low-rate topics, at least once: a check-in
that happens twice writes the same record twice to a compacted topic.
"""

import asyncio
import contextvars
import signal
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import faust
from confluent_kafka import Message, Producer
from faust.app.base import BootStrategy
from mode import Service
from prometheus_client import REGISTRY, generate_latest
from pydantic import SecretStr

from contract import kafka, log
from contract.errors import HeadraceError, InternalError, UnreachableError
from contract.settings import Kafka, Settings
from streams import admin, metrics
from streams.checks import DERIVED, Checked, check
from streams.door import Refused
from streams.observer import Observer
from streams.processor import Processor

CHECK_BATCH = 1_000
CHECK_WAIT_S = 0.1
COMMIT_S = 0.5  # of the agents' offsets: their lag is gone this soon
RETRY_S = 1.0


class Arrived:
    """A record that Faust consumed, as the dead-letter writer wants to see it."""

    def __init__(self, event: Any) -> None:
        self._message = event.message

    def topic(self) -> str:
        """Topic it came from."""
        return cast("str", self._message.topic)

    def partition(self) -> int:
        """Partition it came from."""
        return cast("int", self._message.partition)

    def offset(self) -> int:
        """Its offset there."""
        return cast("int", self._message.offset)

    def key(self) -> bytes | None:
        """Key as it came."""
        return cast("bytes | None", self._message.key)

    def value(self) -> bytes | None:
        """Value as it came."""
        return cast("bytes | None", self._message.value)

    def headers(self) -> list[tuple[str, bytes]]:
        """Headers as they came."""
        came = self._message.headers or []
        return list(came.items() if isinstance(came, dict) else came)


class CheckIn:
    """Checks batches of `items` or `users` and writes what became of them, acknowledged before it returns."""

    def __init__(self, settings: Settings, partitions: int) -> None:
        self._names, self._partitions = settings.names, partitions
        self._producer: Producer = kafka.producer(settings.kafka)

    def write(self, topic: Checked, records: Sequence[Arrived]) -> None:
        """Write a batch; waits for Kafka."""
        missing = [len(records)]

        def delivered(error: Any, _: Message) -> None:
            if error is None:
                missing[0] -= 1
            else:
                log.get().warning("not delivered", topic=topic, text=str(error))

        for record in records:
            self._write_one(topic, record, delivered)
        self._producer.flush(60)
        if missing[0]:
            raise UnreachableError(f"{missing[0]} of {len(records)} checked {topic} were not acknowledged")

    def _write_one(self, topic: Checked, record: Arrived, delivered: Callable[[Any, Message], None]) -> None:
        # Items go wherever the key hashes to: their raw topic may have another number of partitions than the DLQ.
        at: dict[str, Any] = {} if topic == "items" else {"partition": record.partition()}
        try:
            made = check(topic, record.key(), record.value(), record.partition(), self._partitions)
            name, key, value = DERIVED[topic], made.key, made.value
            verdict = "deleted" if value is None else "accepted"
        except Refused as refused:
            letter = kafka.dead_letter(cast("Message", record), refused.reason, str(refused), "check")
            name, verdict = f"{topic}.dlq", refused.reason
            key, value, at["headers"] = cast("bytes", letter.key), letter.value, letter.headers
        metrics.CHECKED.labels(topic, verdict).inc()
        kafka.produce(self._producer, self._names.topic(name), value, key, on_delivery=delivered, **at)


class LoopFirst(BootStrategy):
    """The loop starts before Faust joins its own group: after kill -9 that waits for the dead member's session."""

    def server(self) -> Any:
        """Services in the order in which they start."""
        return [cast("Host", self.app).hosted, *super().server()]


class Host(faust.App):
    """A Faust app that hosts one service of ours."""

    BootStrategy = LoopFirst
    hosted: Service


def build(
    settings: Settings,
    slot: int,
    processor: Processor,
    ending: threading.Event,
    failed: Callable[[BaseException], object],
    partitions: int,
) -> Any:
    """Make the app: the loop as its service, two agents, three pages."""
    data = settings.files / f"streams-{slot}"
    data.mkdir(parents=True, exist_ok=True)
    session_s = settings.streams.session_timeout_ms / 1000
    app = Host(
        settings.names.group("streams-check"),
        broker=[f"kafka://{server.strip()}" for server in settings.kafka.bootstrap_servers.split(",")],
        broker_credentials=_credentials(settings.kafka),
        broker_commit_interval=COMMIT_S,
        broker_session_timeout=session_s,
        broker_heartbeat_interval=min(3.0, session_s / 3),
        broker_client_id=f"{settings.names.group('streams-check')}-{slot}",
        consumer_auto_offset_reset="earliest",
        consumer_max_fetch_size=kafka.DERIVED_MAX_BYTES,
        topic_allow_declare=False,
        topic_disable_leader=True,
        store="memory://",
        datadir=str(data.resolve()),
        autodiscover=False,
        web_enabled=True,
        web_host="127.0.0.1",
        web_bind=settings.pages_host,
        web_port=settings.streams.port_of(slot),
        worker_redirect_stdouts=False,
    )
    app.conf.web_tables_enabled = False
    _host(app, processor, ending, failed)
    _agents(app, settings, CheckIn(settings, partitions))
    _pages(app, settings, processor, ending)
    return app


def _host(app: Any, processor: Processor, ending: threading.Event, failed: Callable[[BaseException], object]) -> None:
    class Loop(Service):
        """The transactional loop in a thread; the app goes down with it."""

        async def on_start(self) -> None:
            self.work = asyncio.get_running_loop().run_in_executor(None, contextvars.copy_context().run, processor.run)
            self.work.add_done_callback(self._ended)

        def _ended(self, done: "asyncio.Future[None]") -> None:
            early = not ending.is_set()
            ending.set()
            error = done.exception() or (InternalError("the loop returned before its end") if early else None)
            if error is None:
                return
            failed(error)
            if isinstance(error, HeadraceError):  # it says all in one line; Faust's crash would add a page to it
                signal.raise_signal(signal.SIGTERM)
            else:
                self.crashing = asyncio.ensure_future(app.crash(error))

        async def on_stop(self) -> None:
            ending.set()
            await asyncio.wait([self.work])

    app.hosted = Loop(loop=app.loop, beacon=app.beacon)


def _agents(app: Any, settings: Settings, check_in: CheckIn) -> None:
    def agent(topic: Checked) -> None:
        async def checking(stream: Any) -> None:
            async for events in stream.take_events(CHECK_BATCH, within=CHECK_WAIT_S):
                records = [Arrived(event) for event in events]
                while True:
                    try:
                        await asyncio.get_running_loop().run_in_executor(None, check_in.write, topic, records)
                        break
                    except Exception as error:  # noqa: BLE001  (Faust would acknowledge the events and lose them)
                        log.get().error("check-in failed, trying again", topic=topic, text=str(error))
                        await asyncio.sleep(RETRY_S)

        source = app.topic(settings.names.topic(topic), key_serializer="raw", value_serializer="raw")
        app.agent(source, name=f"check_{topic}")(checking)

    agent("items")
    agent("users")


def _pages(app: Any, settings: Settings, processor: Processor, ending: threading.Event) -> None:
    observer = Observer(settings, ending)
    threading.Thread(target=observer.run, name="observer", daemon=True).start()

    @app.page("/healthz")  # type: ignore[untyped-decorator]
    async def healthz(web: Any, _: Any) -> Any:
        return web.json({"ok": not ending.is_set(), **processor.health()}, status=503 if ending.is_set() else 200)

    @app.page("/metrics")  # type: ignore[untyped-decorator]
    async def prometheus(web: Any, _: Any) -> Any:
        return web.bytes(generate_latest(REGISTRY), content_type="text/plain")

    @app.page("/lag")  # type: ignore[untyped-decorator]
    async def lag(web: Any, _: Any) -> Any:
        return web.json(observer.rows())


def _credentials(settings: Kafka) -> Any:
    protocol, context = settings.security_protocol, None
    if protocol.endswith("SSL"):
        context = ssl.create_default_context(cafile=settings.ssl_ca_location and str(settings.ssl_ca_location))
        if settings.ssl_certificate_location:
            password = _plain(settings.ssl_key_password)
            context.load_cert_chain(settings.ssl_certificate_location, settings.ssl_key_location, password)
    if protocol.startswith("SASL"):
        return faust.SASLCredentials(
            username=settings.sasl_username,
            password=_plain(settings.sasl_password),
            ssl_context=context,
            mechanism=settings.sasl_mechanism,
        )
    return faust.SSLCredentials(context) if context else None


def _plain(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()


def prepare(settings: Settings) -> int:
    """Topics and start checks as streams.admin.prepare, waiting for Kafka to come."""
    while True:
        try:
            return admin.prepare(settings)
        except UnreachableError as error:
            log.get().warning("waiting for Kafka", text=str(error))
            time.sleep(RETRY_S)


def run(settings: Settings, slot: int = 0) -> None:
    """Run the streams role until SIGTERM or SIGINT; raises what made its loop die."""
    log.set_up("streams", settings.log_level)
    partitions = prepare(settings)
    ending, failed = threading.Event(), list[BaseException]()
    processor = Processor(settings, partitions, slot, ending)
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    app = build(settings, slot, processor, ending, failed.append, partitions)
    worker = faust.Worker(app, loop=loop, override_logging=False, quiet=True, redirect_stdouts=False)
    worker.spinner = None
    try:
        worker.execute_from_commandline()
    except SystemExit as exit_:
        if exit_.code and not failed:
            raise
    finally:
        ending.set()
    if failed:
        raise failed[0]
