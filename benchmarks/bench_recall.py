"""Speed of search, one query after another as a server does it, against FAISS flat and HNSW on the same vectors.

`python benchmarks/bench_recall.py [--items 7500 100000] [--rounds 7] [--server]` prints one JSON line. Clustered unit
vectors of 32 dimensions, queries that mix three of them, k 50, one thread. Rounds are interleaved, so that a busy
machine hurts all alike; figures are medians of queries per second, with recall_at_50 beside each.

Ours answers more than the others: score = cos / tau + log(decayed count + epsilon), and twenty seen items left out.
FAISS flat gets the same question as a maximum inner product with one more dimension for the prior, and as many more
neighbours as are then thrown away (augmented anew at each sequence; that time is not in its figure). HNSW is asked for
plain cosine, because a prior that changes with every delta cannot be in its graph: its recall_at_50 is of plain cosine.
`--server` adds what HTTP costs: p50 and p99 of GET /recall on loopback, a real Redis, one client.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from contract.updates import F32, Manifest
from publisher import index, overlay, recall
from publisher.index import Items, unit
from publisher.model import Model, assembled

DIM, K, SEEN, QUERIES = 32, 50, 20, 200
MANIFEST = Manifest(DIM, [0.6, 0.9], 20, 0, 0.2, "prior", 1.0, 0.5, 5_000.0, 1e5, 0, 0, 0, 0, 0, 0, 0)
Ask = Callable[[F32, list[int]], list[int]]


def made_up(n: int) -> Items:
    """Items [n] around a thousand centres, with counts as a catalogue has them."""
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(1_000, DIM)).astype(np.float32)
    noise = rng.normal(size=(n, DIM)).astype(np.float32)
    vectors = unit(centres[rng.integers(0, 1_000, n)] + np.float32(0.7) * noise)
    counts = (rng.pareto(1.0, n) * 3).astype(np.float32)
    return Items([f"item-{i}" for i in range(n)], vectors, vectors, counts, rng.uniform(9e4, 1e5, n))


def questions(items: Items) -> list[tuple[F32, list[int]]]:
    """Unit queries [D] and the rows they have seen."""
    rng = np.random.default_rng(2)
    mixed = [unit(items.vectors[rng.integers(0, len(items), 3)].sum(axis=0)) for _ in range(QUERIES)]
    return [(query, rng.choice(len(items), SEEN, replace=False).tolist()) for query in mixed]


def ours(model: Model) -> Ask:
    """Search as the server does it."""
    row_of, prior = model.catalogue.base_row_of, model.prior

    def ask(query: F32, seen: list[int]) -> list[int]:
        found = recall.search(model.catalogue, prior.scale, prior.added, prior.best, query, K, seen)
        return [row_of[item] for item, _ in found]

    return ask


def flat(model: Model) -> Ask:
    """FAISS flat over [vector / tau | prior]."""
    prior, vectors = model.prior, model.catalogue.base.vectors
    found = faiss.IndexFlatIP(DIM + 1)
    found.add(np.hstack([vectors * np.float32(prior.scale), prior.added[:, None]]))

    def ask(query: F32, seen: list[int]) -> list[int]:
        _, rows = found.search(np.append(query, np.float32(1))[None, :], K + SEEN)
        left_out = set(seen)
        return [row for row in rows[0].tolist() if row not in left_out][:K]

    return ask


def hnsw(model: Model) -> Ask:
    """FAISS HNSW, plain cosine."""
    found = faiss.IndexHNSWFlat(DIM, 32, faiss.METRIC_INNER_PRODUCT)
    found.hnsw.efSearch = 128
    found.add(model.catalogue.base.vectors)

    def ask(query: F32, seen: list[int]) -> list[int]:
        _, rows = found.search(query[None, :], K + SEEN)
        left_out = set(seen)
        return [row for row in rows[0].tolist() if row not in left_out][:K]

    return ask


def best(scores: F32, seen: list[int]) -> set[int]:
    """The K best of all."""
    scores = scores.copy()
    scores[seen] = -np.inf
    return set(np.argpartition(-scores, K)[:K].tolist())


def measured(n: int, rounds: int) -> dict[str, Any]:
    """Queries per second and recall_at_50 of all contestants over `n` items."""
    items = made_up(n)
    vectors, asked = items.vectors, questions(items)
    tensors = {"user.W": np.zeros((5 * DIM, DIM), np.float32), "user.b": np.zeros(DIM, np.float32)}
    models = {"ours_exact": index.Index(), "ours_ivf": index.build(vectors, 10_000)}
    contestants: dict[str, Ask] = {}
    for name, built in models.items():
        model = assembled(1, 0, 0, MANIFEST, tensors, overlay.based(items, built, 0))
        if name == "ours_exact" or not built.exact:
            contestants[name] = ours(model)
    contestants |= {"faiss_flat": flat(model), "faiss_hnsw": hnsw(model)}
    with_prior = [vectors @ query * np.float32(model.prior.scale) + model.prior.added for query, _ in asked]
    plain = [vectors @ query for query, _ in asked]
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    hits = dict.fromkeys(contestants, 0)
    for number in range(rounds):
        for name, ask in contestants.items():
            begun = time.perf_counter()
            found = [ask(query, seen) for query, seen in asked]
            rates[name].append(len(asked) / (time.perf_counter() - begun))
            if number == 0:
                truth = plain if name == "faiss_hnsw" else with_prior
                hits[name] = sum(len(best(t, s) & set(f)) for t, (_, s), f in zip(truth, asked, found, strict=True))
    return {
        name: {
            "queries_per_s": round(statistics.median(rates[name])),
            "recall_at_50": round(hits[name] / (K * len(asked)), 4),
        }
        for name in contestants
    }


def served(requests: int = 2_000) -> dict[str, Any]:
    """p50 and p99 of GET /recall over HTTP on loopback: one client, 7,500 items, histories of 20 in a real Redis."""
    import contextlib  # noqa: PLC0415  (only with --server)
    import threading  # noqa: PLC0415

    import httpx  # noqa: PLC0415
    import uvicorn  # noqa: PLC0415
    from pydantic import SecretStr  # noqa: PLC0415

    from contract.messages import History, RingEntry, encode  # noqa: PLC0415
    from contract.settings import Settings  # noqa: PLC0415
    from headrace import local_redis, ports  # noqa: PLC0415
    from publisher import server  # noqa: PLC0415
    from publisher.app import create_app  # noqa: PLC0415
    from publisher.follow import Follower, Serving  # noqa: PLC0415
    from publisher.store import Store  # noqa: PLC0415
    from tests.conftest import leashed  # noqa: PLC0415

    items, rng = made_up(7_500), np.random.default_rng(3)
    tensors = {"user.W": rng.normal(size=(5 * DIM, DIM)).astype(np.float32), "user.b": np.zeros(DIM, np.float32)}
    model = assembled(1, 0, 0, MANIFEST, tensors, overlay.based(items, index.Index(), 0))
    with tempfile.TemporaryDirectory() as home, contextlib.ExitStack() as stack:
        port = ports.free()
        stack.enter_context(leashed(local_redis.command(Path(home), port), Path(home) / "log", port))
        settings = Settings()
        redis = settings.redis.model_copy(update={"url": SecretStr(f"redis://127.0.0.1:{port}/0")})
        settings = settings.model_copy(update={"redis": redis})
        store = Store(server.quick_redis(settings), settings.names)
        follower = Follower(settings, store)
        follower.serving = Serving("live", model, store, 0)
        clicks = [RingEntry(n, f"item-{n * 7}", n, "click") for n in range(80)]
        store.put_users("histories", {f"u{n}": encode(History(clicks)) for n in range(100)})
        web = uvicorn.Server(uvicorn.Config(create_app(settings, follower), log_level="warning", access_log=False))
        bound = stack.enter_context(server.listening("127.0.0.1", 0))
        thread = threading.Thread(target=web.run, kwargs={"sockets": [bound]}, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        took = []
        with httpx.Client(base_url=url, timeout=10) as client:
            for n in range(requests + 200):
                begun = time.perf_counter()
                client.get(f"/recall/u{n % 100}?k=50").raise_for_status()
                took.append((time.perf_counter() - begun) * 1000)
        web.should_exit = True
        thread.join(10)
        store.client.close()
    p50, p99 = np.percentile(took[200:], [50, 99])
    return {"requests": requests, "p50_ms": round(float(p50), 2), "p99_ms": round(float(p99), 2)}


def main() -> None:
    """Print one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--items", type=int, nargs="+", default=[7_500, 100_000])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--server", action="store_true")
    options = parser.parse_args()
    faiss.omp_set_num_threads(1)
    answer: dict[str, Any] = {"benchmark": "recall", "dim": DIM, "k": K, "rounds": options.rounds}
    answer |= {f"items_{n}": measured(n, options.rounds) for n in options.items}
    if options.server:
        answer["server"] = served()
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
