"""What is answered, against what was published: one publisher and one server, on a real Kafka and Redis, for all tests.

Each test says how the world is changed by a delta first, so the laws hold for snapshot and overlay alike.
"""

import socket
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from contract.redis import connect
from contract.settings import Kafka, Settings, load
from headrace import ports
from publisher.store import Store, read_status
from tests.publisher.worlds import Recall, Trainer, World, new_world, publishing, serving, wait_for


@dataclass
class Shared:
    """What the tests of this file share."""

    settings: Settings
    recall: Recall
    trainer: Trainer
    world: World
    store: Store

    def change(self, users: list[str], items: list[str], gone: list[str] | None = None) -> None:
        """Publish a delta of new values and wait until it is retrievable: items in the server, rows in Redis."""
        self.trainer.send(self.world.delta(users, items, gone=([], gone or [])))
        wait_for(lambda: self.recall.at(1, self.world.sequence))
        wait_for(lambda: self.store.applied()["version:1"] == self.world.sequence)


@pytest.fixture(scope="module")
def shared(kafka: Kafka, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    """A publisher and a server that answer from version 1 of a world."""
    own: dict[str, Any] = {
        "topic_prefix": f"t{uuid.uuid4().hex[:10]}.",
        "data_dir": tmp_path_factory.mktemp("answers"),
        "kafka.bootstrap_servers": kafka.bootstrap_servers,
        "kafka.partitions": 2,
        "redis.url": redis_url,
        "publisher.port": ports.free(),
    }
    settings = load({**own, "server.port": ports.free(taken=[own["publisher.port"]])})
    world, trainer = new_world(), Trainer(settings)
    trainer.send(world.snapshot())
    with publishing(settings), serving(settings) as recall:
        wait_for(lambda: recall.at(1, 0))
        client = connect(settings.redis)
        yield Shared(settings, recall, trainer, world, Store(client, settings.names))
        client.close()


def test_score_is_published_inner_product_plus_prior(shared: Shared) -> None:
    """The score served equals the inner product of what was published plus the prior, by the formulas in float64."""
    recall, trainer, world = shared.recall, shared.trainer, shared.world
    trainer.history("u3", ["i1", "i2", "gone", "i3"])
    trainer.profile("u3", country="de", city="unknown")
    wait_for(lambda: recall.get("/recall/u3")["basis"] == ["id", "history", "profile"])
    for _ in range(3):
        answer = recall.get("/recall/u3", k=1_000, exclude_seen="none", context_tab="1")
        assert answer["basis"] == ["id", "history", "profile", "context"]
        assert answer["degraded"] is None
        query = world.query("u3", ["i3", "i2", "i1"], [("country", "=de")], [("tab", "=1")], tokens=(2, 1))
        wanted = world.scores(query)
        found = {c["item"]: c["score"] for c in answer["candidates"]}
        assert found.keys() == wanted.keys()
        assert all(abs(found[i] - wanted[i]) < 1e-5 for i in wanted)
        assert [c["score"] for c in answer["candidates"]] == sorted(found.values(), reverse=True)
        shared.change(["u3"], ["i1", "i5", "new"])


def test_context_is_typed_in_a_body_and_guessed_in_a_query(shared: Shared) -> None:
    """tab=2 was learned as a number: the body says so itself, a query string is taken as what the model knows."""
    recall, world = shared.recall, shared.world
    body = {"user_id": "u1", "k": 100, "exclude_seen": "none", "context": {"tab": 2}}
    answer = recall.http.post("/recall", json=body).json()
    wanted = world.scores(world.query("u1", [], [], [("tab", "#2")]))
    assert all(abs(c["score"] - wanted[c["item"]]) < 1e-5 for c in answer["candidates"])
    by_query = recall.get("/recall/u1", k=100, exclude_seen="none", context_tab="2")
    assert by_query["candidates"] == answer["candidates"]
    assert by_query["basis"] == ["id", "context"]


def test_exclude_seen(shared: Shared) -> None:
    """Clicked leaves out what was clicked, shown what was shown or clicked, none nothing; the rest keeps its score."""
    recall, trainer = shared.recall, shared.trainer
    trainer.history("u4", ["i1", "i2"], shown=["i2", "i3", "i4"])
    wait_for(lambda: "history" in recall.get("/recall/u4")["basis"])
    answers = {
        how: {c["item"]: c["score"] for c in recall.get("/recall/u4", k=100, exclude_seen=how)["candidates"]}
        for how in ("none", "clicked", "shown")
    }
    everything = set(answers["none"])
    assert len(everything) == len(shared.world.rows)
    assert everything - set(answers["clicked"]) == {"i1", "i2"}
    assert everything - set(answers["shown"]) == {"i1", "i2", "i3", "i4"}
    assert all(answers["none"][i] == score for i, score in answers["shown"].items())
    default = recall.get("/recall/u4", k=100)["candidates"]
    assert {c["item"] for c in default} == set(answers["clicked"])


def test_ladder(shared: Shared) -> None:
    """Unknown user: context and history; nothing known: popular items, scored by the prior alone; never an error."""
    recall, trainer, world = shared.recall, shared.trainer, shared.world
    popular = recall.get("/recall/nobody", k=100)
    assert popular["basis"] == []
    assert popular["degraded"] is None
    by_prior = sorted(world.rows, key=lambda item: -world.prior(item))
    assert [c["item"] for c in popular["candidates"]] == by_prior
    assert all(abs(c["score"] - world.prior(c["item"])) < 1e-5 for c in popular["candidates"])
    trainer.history("newcomer", ["i9"])
    wait_for(lambda: recall.get("/recall/newcomer")["basis"] == ["history"])
    answer = recall.get("/recall/newcomer", context_tab="1")
    assert answer["basis"] == ["history", "context"]
    wanted = world.scores(world.query(None, ["i9"], [], [("tab", "=1")]))
    assert all(abs(c["score"] - wanted[c["item"]]) < 1e-5 for c in answer["candidates"])


def test_similar_is_plain_cosine(shared: Shared) -> None:
    """/similar ranks by cosine alone, without the item itself; 404 with a reason for an item that is not there."""
    recall, world = shared.recall, shared.world
    for _ in range(2):
        found = recall.get("/similar/i7", k=49)["candidates"]
        wanted = {i: float(v @ world.vectors["i7"]) for i, v in world.vectors.items() if i != "i7"}
        assert [c["item"] for c in found] == sorted(wanted, key=lambda i: -wanted[i])[:49]
        assert all(abs(c["score"] - wanted[c["item"]]) < 1e-6 for c in found)
        shared.change([], ["i7", "i8"], gone=["i9"])
    refused = recall.http.get("/similar/i9")
    assert refused.status_code == 404
    assert "i9" in refused.json()["error"]


def test_status_tells_what_is_served(shared: Shared) -> None:
    """read_status gives what the newest update of the served version says, and when it was applied."""
    shared.change(["u1"], ["i1"])
    world = shared.world
    status = read_status(shared.store.client, shared.settings.names)
    assert (status["version"], status["items"], status["users"]) == (1, len(world.rows), len(world.users))
    assert (status["recall_at_50"], status["popularity_recall_at_50"]) == (0.25, 0.18)
    assert (status["sequence"], status["samples"]) == (world.sequence, 10 * world.sequence)
    assert 50 <= status["freshness_ms"] < 10_000
    assert abs(status["applied_ms"] - time.time() * 1000) < 10_000


@pytest.mark.parametrize(
    ("path", "status", "reason"),
    [
        ("/recall/u1?k=0", 400, "k: "),
        ("/recall/u1?k=1001", 400, "k: "),
        ("/recall/u1?k=ten", 400, "k: "),
        ("/recall/u1?k=1e9", 400, "k: "),
        ("/recall/u1?exclude_seen=all", 400, "clicked, shown, none is wanted, got 'all'"),
        ("/recall/" + "x" * 257, 400, "1 to 256 bytes is wanted, got 257"),
        ("/recall/" + "ü" * 129, 400, "1 to 256 bytes is wanted, got 258"),
        ("/recall/", 400, "1 to 256 bytes is wanted, got 0"),
        ("/similar/i1?k=-1", 400, "k: "),
        ("/similar/" + "x" * 257, 400, "item: "),
        ("/similar/nothing", 404, "no such item"),
        ("/nowhere", 404, "Not Found"),
    ],
)
def test_bad_requests_get_a_reason(shared: Shared, path: str, status: int, reason: str) -> None:
    """What cannot be answered gets a 4xx and one sentence in JSON, never a stack trace."""
    answer = shared.recall.http.get(path)
    assert (answer.status_code, list(answer.json())) == (status, ["error"])
    assert reason in answer.json()["error"]


@pytest.mark.parametrize("chunked", [False, True])
def test_large_body_is_refused(shared: Shared, chunked: bool) -> None:
    """A body over 1 MB gets a 413 and a reason, its length told before or not; one of 1 MB is still read."""
    head = b'{"user_id": "u1"'

    def post(size: int) -> httpx.Response:
        body = head + b" " * (size - len(head) - 1) + b"}"
        parts = iter([body[at : at + 65_536] for at in range(0, size, 65_536)])
        return shared.recall.http.post("/recall", content=parts if chunked else body)

    assert post(1_000_000).status_code == 200
    for size in (1_000_001, 5_000_000):
        answer = post(size)
        assert (answer.status_code, list(answer.json())) == (413, ["error"])
        assert "1000000 bytes" in answer.json()["error"]
    assert len(shared.recall.get("/recall/u1")["candidates"]) == 10


def test_endless_body_is_not_kept(shared: Shared) -> None:
    """A chunked body without an end is answered as soon as it is too large, not when it ends."""
    address = "127.0.0.1", shared.settings.server.port
    with socket.create_connection(address, timeout=5) as raw:
        raw.sendall(b"POST /recall HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(16):
            raw.sendall(b"10000\r\n" + b" " * 65_536 + b"\r\n")
        assert raw.recv(64).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"{", "truncated"),
        (b"[]", "Expected `object`"),
        (b'{"k": 5}', "user_id"),
        (b'{"user_id": 7}', "Expected `str`"),
        (b'{"user_id": "u1", "k": 0}', "k: 1 to 1000 is wanted, got 0"),
        (b'{"user_id": "u1", "k": "5"}', "Expected `int`"),
        (b'{"user_id": "u1", "exclude_seen": ""}', "exclude_seen"),
        (b'{"user_id": "u1", "context": {"tab": NaN}}', "body: "),
        (b'{"user_id": "u1", "context": {"tab": 1e999}}', "body: "),
        (b'{"user_id": "u1", "context": {"tab": {"a": 1}}}', "body: "),
        (b'{"user_id": "\xff"}', "body: "),
        (b'{"user_id": "\\ud800"}', "body: "),
    ],
)
def test_bad_bodies_get_a_reason(shared: Shared, body: bytes, reason: str) -> None:
    """A body that does not decode or is out of bounds gets a 400 and one sentence in JSON."""
    answer = shared.recall.http.post("/recall", content=body)
    assert (answer.status_code, list(answer.json())) == (400, ["error"])
    assert reason in answer.json()["error"]


@pytest.mark.parametrize(
    "path",
    ["/recall/%FF", "/recall/%00", "/recall/a%2Fb%3F%20c", "/recall/u1?context.%FF=%FF&context.tab=x&context.tab=y"],
)
def test_odd_ids_are_only_unknown(shared: Shared, path: str) -> None:
    """Bytes that mean nothing here are an unknown user or context, not a failure."""
    assert shared.recall.http.get(path).status_code == 200


@pytest.mark.parametrize(
    "body", [b'{"user_id": "x", "context": {"n": 1e308, "m": -9223372036854775808, "l": [1, "a", true]}}']
)
def test_extreme_context_is_only_unknown(shared: Shared, body: bytes) -> None:
    """Numbers at the edge of what JSON holds are tokens like others."""
    assert shared.recall.http.post("/recall", content=body).status_code == 200


def test_pages(shared: Shared) -> None:
    """/version, /healthz, /metrics, /openapi.json and a /docs that needs nothing from elsewhere say what is served."""
    http = shared.recall.http
    assert shared.recall.get("/healthz")["ready"] is True
    assert shared.recall.get("/version")["sequence"] == shared.world.sequence
    lines = dict(line.rsplit(" ", 1) for line in http.get("/metrics").text.splitlines() if not line.startswith("#"))
    assert float(lines["headrace_served_version"]) == 1
    assert float(lines["headrace_served_sequence"]) == shared.world.sequence
    asked = float(lines['headrace_requests_total{endpoint="/recall",status="200"}'])
    shared.recall.get("/recall/u1")
    lines = dict(line.rsplit(" ", 1) for line in http.get("/metrics").text.splitlines() if not line.startswith("#"))
    assert float(lines['headrace_requests_total{endpoint="/recall",status="200"}']) == asked + 1
    assert float(lines['headrace_request_seconds_count{endpoint="/recall"}']) >= asked + 1
    paths = http.get("/openapi.json").json()["paths"]
    assert set(paths) == {"/recall/{user}", "/recall", "/similar/{item}", "/version", "/healthz"}
    docs = http.get("/docs").text
    assert all(path in docs for path in paths)
    assert "http://" not in docs
    assert "https://" not in docs
    assert "<script" not in docs
