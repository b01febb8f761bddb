"""Small random models, published as the trainer publishes: on the real `updates`, each update one transaction.

A `World` knows every value it has published, so that a test can say what must be served.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
import numpy as np
import uvicorn
from confluent_kafka import Producer

from contract.kafka import create_topics, produce, producer
from contract.messages import History, RingEntry, ShownEntry, User, encode
from contract.settings import Settings
from contract.updates import F32, Chunk, Manifest, Section, cut, item_sections, tensor_sections, user_sections
from publisher import server
from publisher.app import create_app
from publisher.apply import publish
from publisher.follow import Follower
from publisher.index import unit
from publisher.store import Store

DIM = 8
DECAYS = [0.6, 0.9]
TOKENS = {
    "profile": [("country", "=de"), ("country", "=fr")],
    "context": [("tab", "=1"), ("tab", "#2")],
    "item_features": [],
}


START = Manifest(DIM, DECAYS, 20, 0, 0.2, "prior", 1.0, 0.5, 5_000.0, 100.0, 1_700_000_000_000, 0, 0, 0, 0, 0, 0)


@dataclass
class World:
    """What has been published of one version."""

    rng: np.random.Generator
    version: int = 1
    sequence: int = 0
    users: dict[str, F32] = field(default_factory=dict)
    rows: dict[str, F32] = field(default_factory=dict)
    vectors: dict[str, F32] = field(default_factory=dict)
    counts: dict[str, tuple[float, float]] = field(default_factory=dict)
    tensors: dict[str, F32] = field(default_factory=dict)
    manifest: Manifest = START

    def draw(self, users: Iterable[str], items: Iterable[str]) -> None:
        """Draw new values for some users and items."""
        for user in users:
            self.users[user] = self.rng.normal(size=DIM).astype(np.float32)
        for item in items:
            self.rows[item] = self.rng.normal(size=DIM).astype(np.float32)
            self.vectors[item] = unit(self.rng.normal(size=DIM).astype(np.float32))
            self.counts[item] = (float(np.float32(self.rng.exponential(20))), float(self.rng.integers(0, 100)))

    def draw_tensors(self) -> None:
        """Draw towers."""
        width = (3 + len(DECAYS)) * DIM
        self.tensors = {
            "user.W": self.rng.normal(size=(width, DIM)).astype(np.float32),
            "user.b": self.rng.normal(size=DIM).astype(np.float32),
            "item.W": self.rng.normal(size=(2 * DIM, DIM)).astype(np.float32),
            "item.b": np.zeros(DIM, np.float32),
            "profile.rows": self.rng.normal(size=(2, DIM)).astype(np.float32),
            "context.rows": self.rng.normal(size=(2, DIM)).astype(np.float32),
            "item_features.rows": np.zeros((0, DIM), np.float32),
        }

    def snapshot(self) -> list[Chunk]:
        """Chunks of everything."""
        manifest = replace_manifest(self.manifest, tokens=TOKENS, users=len(self.users), items=len(self.rows))
        sections: list[Section] = [manifest]
        for name, tensor in self.tensors.items():
            sections += tensor_sections(name, tensor, 1_000)
        sections += self._rows(list(self.users), list(self.rows), [], [])
        return cut("snapshot", self.version, self.sequence, sections)

    def delta(
        self,
        users: Iterable[str] = (),
        items: Iterable[str] = (),
        gone: tuple[list[str], list[str]] = ([], []),
        arrival_ms: int | None = None,
    ) -> list[Chunk]:
        """Chunks of the next sequence: new values for some, others gone (users, items); newest click just now."""
        users, items = list(users), list(items)
        self.draw(users, items)
        for user in gone[0]:
            self.users.pop(user, None)
        for item in gone[1]:
            for table in (self.rows, self.vectors, self.counts):
                table.pop(item, None)
        self.sequence += 1
        clicks = self.manifest.click_number + 10
        self.manifest = replace_manifest(
            self.manifest,
            click_number=clicks,
            arrival_ms=int(time.time() * 1000) - 50 if arrival_ms is None else arrival_ms,
            samples=self.manifest.samples + 10,
            metrics={"recall_at_50": 0.25, "popularity_recall_at_50": 0.18},
            users=len(self.users),
            items=len(self.rows),
        )
        sections = [self.manifest, *self._rows(users, items, *gone)]
        return cut("delta", self.version, self.sequence, sections)

    def _rows(self, users: list[str], items: list[str], *gone: list[str]) -> list[Section]:
        def stacked(table: dict[str, F32], ids: list[str]) -> F32:
            return np.stack([table[i] for i in ids]) if ids else np.zeros((0, DIM), np.float32)

        counts = np.array([self.counts[i] for i in items], np.float64).reshape(-1, 2)
        return [
            *user_sections(users, stacked(self.users, users), gone[0], 2_000),
            *item_sections(
                items,
                stacked(self.rows, items),
                stacked(self.vectors, items),
                counts[:, 0].astype(np.float32),
                counts[:, 1],
                gone[1],
                2_000,
            ),
        ]

    def next_version(self) -> "World":
        """A version of other towers and other values of the same users and items."""
        news = replace(self, version=self.version + 1, sequence=0, users={}, rows={}, vectors={}, counts={})
        news.draw(self.users, self.rows)
        news.draw_tensors()
        return news

    def prior(self, item: str) -> float:
        """Prior of an item by the formula of contract/updates.py, in float64."""
        m = self.manifest
        count, at = self.counts[item]
        now = count * 2 ** (-(m.click_number - at) / m.prior_half_life_clicks)
        return m.prior_weight * float(np.log(now + m.prior_epsilon))

    def query(
        self,
        user: str | None,
        clicks: list[str],
        profile: Iterable[tuple[str, str]] = (),
        context: Iterable[tuple[str, str]] = (),
        tokens: tuple[int, int] | None = None,
    ) -> np.ndarray[Any, np.dtype[np.float64]]:
        """User vector by the formulas, in float64; clicks newest first, known tokens, and how many there are in all."""
        zero = np.zeros(DIM)
        known = [self.rows[c].astype(np.float64) for c in clicks if c in self.rows]
        bags = [
            sum((d**k * r for k, r in enumerate(known)), zero) / max(sum(d**k for k in range(len(known))), 1e-12)
            for d in DECAYS
        ]
        sums = []
        for stem, wanted, count in (("profile", profile, 0), ("context", context, 1)):
            rows = [self.tensors[f"{stem}.rows"][TOKENS[stem].index(t)].astype(np.float64) for t in wanted]
            size = tokens[count] if tokens else len(rows)
            sums.append(sum(rows, zero) / max(size, 1) ** 0.5)
        own = self.users[user].astype(np.float64) if user in self.users else zero
        x = np.concatenate([own, *bags, *sums])
        v = x @ self.tensors["user.W"].astype(np.float64) + self.tensors["user.b"].astype(np.float64)
        return v / max(float(np.linalg.norm(v)), 1e-12)

    def scores(self, query: np.ndarray[Any, np.dtype[np.float64]]) -> dict[str, float]:
        """Score of every item by the formula, in float64."""
        return {i: float(v @ query) / self.manifest.temperature + self.prior(i) for i, v in self.vectors.items()}


def replace_manifest(manifest: Manifest, **more: Any) -> Manifest:
    """Manifest with some fields changed."""
    return Manifest(**{name: more.get(name, getattr(manifest, name)) for name in manifest.__struct_fields__})


def new_world(seed: int = 1, users: int = 20, items: int = 50) -> World:
    """Version 1 with u0.. and i0.., nothing published."""
    world = World(np.random.default_rng(seed))
    world.draw((f"u{n}" for n in range(users)), (f"i{n}" for n in range(items)))
    world.draw_tensors()
    return world


class Trainer:
    """Writes to the topics that the publisher reads, each call one transaction."""

    def __init__(self, settings: Settings) -> None:
        create_topics(settings)
        self.settings = settings
        self.producer: Producer = producer(
            settings.kafka, transactional_id=settings.names.transactional_id("test-trainer"), linger_ms=0
        )
        self.producer.init_transactions(30)

    def send(self, chunks: Iterable[Chunk]) -> None:
        """Publish chunks."""
        self.write("updates", [(chunk.key, encode(chunk)) for chunk in chunks])

    def write(self, topic: str, records: Iterable[tuple[bytes, bytes | None]]) -> None:
        """Write records to a topic."""
        self.producer.begin_transaction()
        for key, value in records:
            produce(self.producer, self.settings.names.topic(topic), value, key)
        self.producer.commit_transaction(30)

    def history(self, user: str, clicks: list[str], shown: list[str] | None = None) -> None:
        """Write a history; clicks oldest first."""
        ring = [RingEntry(n, item, 1_700_000_000_000 + n, "click") for n, item in enumerate(clicks)]
        exposures = [ShownEntry(1, 1_700_000_000_000, shown)] if shown else []
        self.write("histories", [(user.encode(), encode(History(ring, exposures)))])

    def profile(self, user: str, **features: Any) -> None:
        """Write a profile."""
        self.write("profiles", [(user.encode(), encode(User(user, 1_700_000_000_000, features)))])

    def forget(self, topic: str, user: str) -> None:
        """Write a tombstone."""
        self.write(topic, [(user.encode(), None)])


@contextlib.contextmanager
def publishing(settings: Settings) -> Iterator[None]:
    """Run the publisher role until the block ends; what ended it early is raised."""
    stop, failed = threading.Event(), []

    def run() -> None:
        try:
            publish(settings, stop)
        except BaseException as error:
            failed.append(error)
            raise

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(20)
    assert not thread.is_alive()
    assert not failed, failed


class Recall:
    """A recall server over loopback."""

    def __init__(self, follower: Follower, url: str) -> None:
        self.follower = follower
        self.http = httpx.Client(base_url=url, timeout=5)

    def get(self, path: str, **parameters: Any) -> Any:
        """JSON of a 200."""
        answer = self.http.get(path, params={n.replace("context_", "context."): v for n, v in parameters.items()})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def at(self, version: int, sequence: int) -> bool:
        """Tell whether this is what it answers from."""
        serving = self.follower.serving
        return serving is not None and (serving.model.version, serving.model.sequence) == (version, sequence)


@contextlib.contextmanager
def serving(settings: Settings) -> Iterator[Recall]:
    """Run the recall server on its port until the block ends."""
    follower = Follower(settings, Store(server.quick_redis(settings), settings.names))
    stop = threading.Event()
    config = uvicorn.Config(create_app(settings, follower), log_level="warning", access_log=False)
    web = uvicorn.Server(config)
    bound = server.listening("127.0.0.1", settings.server.port)
    threads = [
        threading.Thread(target=follower.follow, args=(stop,), daemon=True),
        threading.Thread(target=web.run, kwargs={"sockets": [bound]}, daemon=True),
    ]
    for thread in threads:
        thread.start()
    wait_for(lambda: web.started)
    recall = Recall(follower, f"http://127.0.0.1:{settings.server.port}")
    try:
        yield recall
    finally:
        recall.http.close()
        stop.set()
        web.should_exit = True
        for thread in threads:
            thread.join(20)
        bound.close()
        follower.close()
        assert not any(thread.is_alive() for thread in threads)


def wait_for(condition: Callable[[], Any], timeout_s: float = 20.0) -> None:
    """Wait until a condition holds."""
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, f"not within {timeout_s} s"
        time.sleep(0.02)
