"""The recall server's HTTP, over what `answer.py` says.

    GET  /recall/{user}?k=10&exclude_seen=clicked|shown|none&context.tab=1
    POST /recall           {"user_id": .., "k": 10, "exclude_seen": "clicked", "context": {..}}
    GET  /similar/{item}?k=10
    GET  /version  /healthz  /metrics  /docs  /openapi.json

Bad input gets a 4xx and {"error": reason}. Before there is a model, /recall answers 200 with no candidates and says so
in `degraded`, while /healthz says 503, so that a balancer waits.
"""

import json
import time
from typing import Annotated, Any

import msgspec
from fastapi import FastAPI, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from contract import log
from contract.messages import MAX_ID_BYTES, Features
from contract.settings import Settings
from publisher.answer import RecallAnswer, Recaller, SimilarAnswer
from publisher.api_page import page
from publisher.follow import Follower

DEFAULT_K = 10
ENDPOINTS = ("recall", "similar", "version", "healthz", "metrics", "docs", "openapi.json")
EXCLUDE_SEEN = ("clicked", "shown", "none")
MAX_BODY_BYTES = 1_000_000
BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
JSON = "application/json"


class RecallRequest(msgspec.Struct):
    """Body of POST /recall."""

    user_id: str
    k: int = DEFAULT_K
    exclude_seen: str = "clicked"
    context: Features = {}


class BadRequestError(Exception):
    """Becomes a 400 with its text as the reason."""


class Metrics:
    """Prometheus metrics of one server; its own registry, so that tests may run several in one process."""

    def __init__(self, follower: Follower) -> None:
        self.registry = CollectorRegistry()
        more: Any = {"registry": self.registry}
        self.requests = Counter("headrace_requests", "requests answered", ["endpoint", "status"], **more)
        self.seconds = Histogram("headrace_request_seconds", "time to answer", ["endpoint"], buckets=BUCKETS_S, **more)
        self.degraded = Counter("headrace_degraded", "answers that say degraded", **more)
        gauges = {
            "version": ("served version", lambda: follower.serving.model.version if follower.serving else 0),
            "sequence": ("its sequence", lambda: follower.serving.model.sequence if follower.serving else 0),
            "items": ("items served", lambda: len(follower.serving.model.catalogue) if follower.serving else 0),
            "freshness_ms": (
                "click arrival to retrievable, newest update",
                lambda: (follower.serving and follower.serving.freshness_ms) or 0,
            ),
        }
        for name, (what, value) in gauges.items():
            Gauge(f"headrace_served_{name}", what, **more).set_function(value)


class Measured:
    """ASGI middleware that counts requests and their time by endpoint and status."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on and measure it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun, status = time.perf_counter(), 500

        async def seen(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, seen)
        finally:
            first = scope["path"].lstrip("/").split("/")[0]
            endpoint = f"/{first}" if first in ENDPOINTS else "other"
            self.metrics.requests.labels(endpoint, status).inc()
            self.metrics.seconds.labels(endpoint).observe(time.perf_counter() - begun)


def create_app(settings: Settings, follower: Follower) -> FastAPI:
    """App over a follower, which somebody else runs."""
    app = FastAPI(
        title="headrace recall server",
        description="Candidates of a user from a model that learns while people click.",
        version="1",
        docs_url=None,
        redoc_url=None,
    )
    metrics = Metrics(follower)
    app.add_middleware(Measured, metrics=metrics)
    _candidates(app, Recaller(follower), metrics, settings.server.k_max)
    _state(app, follower, metrics)
    _refusals(app)
    return app


def _candidates(app: FastAPI, recaller: Recaller, metrics: Metrics, k_max: int) -> None:
    k_query = Annotated[int, Query(ge=1, le=k_max, description="number of candidates")]

    def told(answer: RecallAnswer) -> Response:
        if answer.degraded is not None:
            metrics.degraded.inc()
        return Response(msgspec.json.encode(answer), media_type=JSON)

    @app.get("/recall/{user:path}", summary="candidates of a user", responses=_schema(RecallAnswer))
    def recall_get(
        request: Request,
        user: Annotated[str, Path(description="user id; context goes into parameters context.NAME=VALUE")],
        k: k_query = DEFAULT_K,
        exclude_seen: Annotated[str, Query(description="clicked, shown (clicked ones too) or none")] = "clicked",
    ) -> Response:
        _check(user, k, k_max, exclude_seen)
        return told(recaller.recall(user, k, exclude_seen, _context(request)))

    @app.post("/recall", summary="candidates of a user, context in the body", openapi_extra=_body(RecallRequest))
    async def recall_post(request: Request) -> Response:
        body = await _read(request)
        if body is None:
            return _error(413, f"body: at most {MAX_BODY_BYTES} bytes are wanted, more came")
        try:
            wanted = msgspec.json.decode(body, type=RecallRequest)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadRequestError(f"body: {error}") from None
        _check(wanted.user_id, wanted.k, k_max, wanted.exclude_seen)
        arguments = wanted.user_id, wanted.k, wanted.exclude_seen, wanted.context
        return told(await run_in_threadpool(recaller.recall, *arguments))

    @app.get("/similar/{item:path}", summary="items nearest to one by cosine", responses=_schema(SimilarAnswer))
    def similar(item: Annotated[str, Path(description="item id")], k: k_query = DEFAULT_K) -> Response:
        _check_id("item", item)
        answer = recaller.similar(item, k)
        if answer is None:
            known = (
                "there is no model yet" if recaller.follower.serving is None else "the served version has no such item"
            )
            return _error(404, f"item {item!r}: {known}")
        return Response(msgspec.json.encode(answer), media_type=JSON)


def _state(app: FastAPI, follower: Follower, metrics: Metrics) -> None:
    @app.get("/version", summary="what is served")
    def version() -> dict[str, Any]:
        return _version(follower)

    @app.get("/healthz", summary="200 once there is a model to answer from")
    def healthz(response: Response) -> dict[str, Any]:
        ready = follower.serving is not None
        response.status_code = 200 if ready else 503
        return {"role": "server", "ready": ready, "redis": follower.redis_error or "ok"} | _version(follower)

    @app.get("/metrics", include_in_schema=False)
    def metrics_page() -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/docs", include_in_schema=False)
    def docs() -> HTMLResponse:
        return HTMLResponse(page(app.openapi()))


def _version(follower: Follower) -> dict[str, Any]:
    serving, pointer = follower.serving, follower.pointer
    told: dict[str, Any] = {"served": pointer and {"namespace": pointer.namespace, "version": pointer.version}}
    if serving is None:
        return told | {"namespace": follower.settings.namespace, "version": 0, "sequence": 0}
    found = serving.model
    return told | {
        "namespace": serving.namespace,
        "version": found.version,
        "sequence": found.sequence,
        "previous": pointer.previous if pointer else 0,
        "items": len(found.catalogue),
        "overlay_items": len(found.catalogue.over),
        "exact": found.catalogue.index.exact,
        "samples": found.manifest.samples,
        "full_updates": found.manifest.full_updates,
        "event_ms": found.manifest.event_ms,
        "published_ms": found.manifest.published_ms,
        "freshness_ms": serving.freshness_ms,
        "metrics": found.manifest.metrics,
    }


async def _read(request: Request) -> bytes | None:
    """Body of a request; None, and no further read, where it is larger than any that makes sense."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY_BYTES:
            return None
    return bytes(body)


def _check(user: str, k: int, k_max: int, exclude_seen: str) -> None:
    _check_id("user", user)
    if not 1 <= k <= k_max:
        raise BadRequestError(f"k: 1 to {k_max} is wanted, got {k}")
    if exclude_seen not in EXCLUDE_SEEN:
        raise BadRequestError(f"exclude_seen: one of {', '.join(EXCLUDE_SEEN)} is wanted, got {exclude_seen[:40]!r}")


def _check_id(what: str, text: str) -> None:
    size = len(text.encode("utf-8", "surrogatepass"))
    if not 1 <= size <= MAX_ID_BYTES:
        raise BadRequestError(f"{what}: an id of 1 to {MAX_ID_BYTES} bytes is wanted, got {size}")
    if any("\ud800" <= c <= "\udfff" for c in text):
        raise BadRequestError(f"{what}: the id is not valid UTF-8")


def _context(request: Request) -> dict[str, Any]:
    """Parameters context.NAME=VALUE; a name given twice is a list."""
    found: dict[str, Any] = {}
    for name, value in request.query_params.multi_items():
        if name.startswith("context."):
            key = name.removeprefix("context.")
            found[key] = value if key not in found else [*_listed(found[key]), value]
    try:
        return msgspec.convert(found, Features)
    except msgspec.ValidationError as error:
        raise BadRequestError(f"context: {error}") from None


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _refusals(app: FastAPI) -> None:
    """Every refusal and failure as {"error": reason}."""

    @app.exception_handler(BadRequestError)
    async def bad(_: Request, error: BadRequestError) -> Response:
        return _error(400, str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        reasons = [f"{e['loc'][-1]}: {e['msg']}, got {str(e.get('input'))[:40]!r}" for e in error.errors()]
        return _error(400, "; ".join(reasons))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        return _error(error.status_code, f"{error.detail}: {request.method} {request.url.path[:100]}")

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        log.get().error("request_failed", path=request.url.path[:300], reason=f"{type(error).__name__}: {error}"[:300])
        return _error(500, "a fault of the server; its log says more")


def _error(status: int, reason: str) -> Response:
    return Response(json.dumps({"error": reason}), status, media_type=JSON)


def _schema(kind: type[msgspec.Struct]) -> dict[int | str, dict[str, Any]]:
    return {200: {"description": (kind.__doc__ or "").strip(), "content": {JSON: {"schema": _inlined(kind)}}}}


def _body(kind: type[msgspec.Struct]) -> dict[str, Any]:
    content = {JSON: {"schema": _inlined(kind)}}
    return {"requestBody": {"required": True, "content": content}, "responses": _schema(RecallAnswer)}


def _inlined(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """JSON Schema of a type with its references put in place."""
    schema = msgspec.json.schema(kind)
    definitions = schema.get("$defs", {})

    def put(node: Any) -> Any:
        if isinstance(node, dict):
            if "$ref" in node:
                return put(definitions[node["$ref"].rsplit("/", 1)[1]])
            return {name: put(value) for name, value in node.items()}
        return [put(value) for value in node] if isinstance(node, list) else node

    found: dict[str, Any] = put({name: value for name, value in schema.items() if name != "$defs"})
    return found
