"""Catalogue, overlay, prior and search against plain dictionaries and brute force."""

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.updates import F32, Manifest
from publisher import index, overlay, recall
from publisher.index import Items, unit
from publisher.overlay import Catalogue
from tests.publisher.worlds import DIM, START, replace_manifest

World = dict[str, tuple[bytes, float, float]]
OPERATIONS = st.lists(
    st.tuples(st.lists(st.integers(0, 30), max_size=6, unique=True), st.lists(st.integers(0, 30), max_size=3)),
    max_size=8,
)


def some_items(rng: np.random.Generator, ids: list[str]) -> Items:
    """Random items; vectors of few directions, so that equal scores occur."""
    n = len(ids)
    vectors = unit(rng.integers(-1, 2, (n, DIM)).astype(np.float32))
    counts = rng.integers(0, 4, n).astype(np.float32)
    return Items(
        ids, rng.normal(size=(n, DIM)).astype(np.float32), vectors, counts, rng.integers(0, 90, n).astype(np.float64)
    )


def played(seed: int, operations: list[tuple[list[int], list[int]]], exact_max: int = 100) -> tuple[Catalogue, World]:
    """A catalogue after deltas, and what it must hold."""
    rng = np.random.default_rng(seed)
    base = some_items(rng, [f"i{n}" for n in range(10)])
    catalogue = overlay.based(base, index.build(base.vectors, exact_max), 0)
    world = contents_of(base)
    for sequence, (changed, gone) in enumerate(operations, 1):
        items = some_items(rng, [f"i{n}" for n in changed])
        deleted = [f"i{n}" for n in gone]
        catalogue = overlay.changed(catalogue, items, deleted, sequence)
        world = {i: v for i, v in world.items() if i not in deleted} | contents_of(items)
    return catalogue, world


def contents_of(items: Items) -> World:
    """Values by id."""
    return {
        item: (items.rows[n].tobytes() + items.vectors[n].tobytes(), float(items.counts[n]), float(items.count_at[n]))
        for n, item in enumerate(items.ids)
    }


def contents(catalogue: Catalogue) -> World:
    """Values by id, as they are found."""
    counts, count_at = catalogue.counts()
    found = {}
    for item in (*catalogue.base_row_of, *catalogue.over_row_of):
        row = catalogue.row(item)
        if row is not None:
            assert catalogue.item_id(row) == item
            values = catalogue.id_row(row).tobytes() + catalogue.vector(row).tobytes()
            found[item] = (values, float(counts[row]), float(count_at[row]))
    return found


@given(st.integers(0, 99), OPERATIONS)
def test_overlay_is_last_writer_wins(seed: int, operations: list[tuple[list[int], list[int]]]) -> None:
    """Whatever deltas bring, an item is what its newest delta says, bit for bit, and a deleted one is gone."""
    catalogue, world = played(seed, operations)
    assert contents(catalogue) == world
    assert len(catalogue) == len(world)


@given(st.integers(0, 99), OPERATIONS, st.integers(0, 8))
def test_new_base_under_an_overlay_changes_nothing(
    seed: int, operations: list[tuple[list[int], list[int]]], at: int
) -> None:
    """A base built at any sequence takes the place of the old one and every item stays what it was."""
    at = min(at, len(operations))
    then, _ = played(seed, operations[:at])
    now, world = played(seed, operations)
    base = overlay.folded(then, at)
    assert contents(overlay.rebased(now, base)) == world


@given(st.integers(0, 99), OPERATIONS)
def test_snapshot_as_difference(seed: int, operations: list[tuple[list[int], list[int]]]) -> None:
    """A whole catalogue taken as its difference from the one at hand gives that catalogue, and nothing twice."""
    catalogue, _ = played(seed, operations)
    rng = np.random.default_rng(seed + 1)
    whole = index.joined([some_items(rng, ["i1", "i40"]), index.taken(catalogue.base, np.arange(3, 6))])
    items, gone = overlay.differing(catalogue, whole)
    after = overlay.changed(catalogue, items, gone, 99)
    assert contents(after) == contents_of(whole)
    assert overlay.differing(after, whole)[0].ids == []


def brute_force(catalogue: Catalogue, manifest: Manifest, query: F32, excluded: set[str]) -> list[tuple[str, float]]:
    """Every item's score by the formula, best first, in float64."""
    scored = []
    counts, count_at = catalogue.counts()
    for item in contents(catalogue).keys() - excluded:
        row = catalogue.row(item)
        assert row is not None
        score = catalogue.vector(row).astype(np.float64) @ query.astype(np.float64)
        if manifest.correction == "prior":
            now = counts[row] * 2.0 ** (-(manifest.click_number - count_at[row]) / manifest.prior_half_life_clicks)
            score = score / manifest.temperature + manifest.prior_weight * np.log(now + manifest.prior_epsilon)
        scored.append((item, float(score)))
    return sorted(scored, key=lambda pair: -pair[1])


@settings(max_examples=150)
@given(
    st.integers(0, 99),
    OPERATIONS,
    st.integers(1, 40),
    st.sets(st.integers(0, 30), max_size=8),
    st.sampled_from(["prior", "logq"]),
)
def test_exact_search_equals_brute_force(
    seed: int, operations: list[tuple[list[int], list[int]]], k: int, seen: set[int], correction: str
) -> None:
    """Over an exact index the k best by search are the k best of scoring all, exclusions and overlay included."""
    catalogue, _ = played(seed, operations)
    manifest = replace_manifest(START, correction=correction)
    prior = recall.prior_of(catalogue, manifest)
    query = unit(np.random.default_rng(seed).normal(size=DIM).astype(np.float32))
    excluded = {f"i{n}" for n in seen}
    rows = [row for item in excluded if (row := catalogue.row(item)) is not None]
    found = recall.search(catalogue, prior.scale, prior.added, prior.best, query, k, rows)
    wanted = brute_force(catalogue, manifest, query, excluded)
    assert catalogue.index.exact
    assert len(found) == min(k, len(wanted))
    assert len({item for item, _ in found}) == len(found)
    assert not excluded & {item for item, _ in found}
    by_id = dict(wanted)
    for (item, score), (_, best) in zip(found, wanted, strict=False):
        assert abs(score - best) < 1e-4  # ties may change places, scores may not
        assert abs(score - by_id[item]) < 1e-4


def large(rng: np.random.Generator, n: int) -> Items:
    """Clustered unit vectors, as learned ones are."""
    centres = rng.normal(size=(50, DIM)).astype(np.float32)
    vectors = unit(centres[rng.integers(0, 50, n)] + 0.5 * rng.normal(size=(n, DIM)).astype(np.float32))
    counts = rng.exponential(20, n).astype(np.float32)
    return Items([f"i{i}" for i in range(n)], vectors.copy(), vectors, counts, np.zeros(n))


def overlap(found: list[tuple[str, float]], wanted: list[tuple[str, float]]) -> float:
    """Share of the wanted items that were found."""
    return len({i for i, _ in found} & {i for i, _ in wanted[: len(found)]}) / len(found)


def test_ivf_scores_exactly_and_finds_nearly_all() -> None:
    """IVF: scores are exact, excluded items never come, the overlay counts at once, 9 of 10 of the best are found."""
    rng = np.random.default_rng(3)
    base = large(rng, 5_000)
    built = index.build(base.vectors, 1_000)
    assert not built.exact
    assert index.recall_at_k(built, base.vectors) >= index.RECALL_FLOOR
    catalogue = overlay.based(base, built, 0)
    query = unit(base.vectors[:3].sum(axis=0))
    both = np.stack([query, query])
    news = Items(["i7", "new"], both, both, np.ones(2, np.float32), np.zeros(2))
    catalogue = overlay.changed(catalogue, news, ["i8"], 1)
    prior = recall.prior_of(catalogue, START)
    excluded = [row for row in (catalogue.row("i9"), catalogue.row("i10")) if row is not None]
    wanted = brute_force(catalogue, START, query, {"i9", "i10"})
    found = recall.search(catalogue, prior.scale, prior.added, prior.best, query, 50, excluded)
    assert overlap(found, wanted) >= 0.9
    by_id = dict(wanted)
    assert all(abs(score - by_id[item]) < 1e-4 for item, score in found)
    hidden = np.where(np.isneginf(prior.added), prior.added, np.float32(0))
    near = recall.search(catalogue, 1.0, hidden, np.zeros(0, np.int64), query, 5, [])
    assert {item for item, _ in near[:2]} == {"i7", "new"}


def test_tied_scores_come_in_the_order_of_rows() -> None:
    """Equal scores give the same candidates each time: the first rows."""
    vectors = np.zeros((50, DIM), np.float32)
    items = Items([f"i{n}" for n in range(50)], vectors, vectors, np.zeros(50, np.float32), np.zeros(50))
    catalogue = overlay.based(items, index.Index(), 0)
    scores: npt.NDArray[np.float32] = np.zeros(50, np.float32)
    assert [i for i, _ in recall.top(catalogue, scores, None, 3)] == ["i0", "i1", "i2"]


@given(st.integers(0, 3_000), st.integers(1, 60), st.integers(0, 9), st.sampled_from([1, 3, 1_000]))
def test_top_equals_sorting(n: int, k: int, seed: int, values: int) -> None:
    """The k highest, ties by row, hidden ones left out: whatever the number of scores, ties and hidden rows."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, values, n).astype(np.float32)
    scores[rng.random(n) < 0.3] = -np.inf
    vectors = np.zeros((n, DIM), np.float32)
    items = Items([str(i) for i in range(n)], vectors, vectors, np.zeros(n, np.float32), np.zeros(n))
    wanted = sorted((i for i in range(n) if np.isfinite(scores[i])), key=lambda i: (-scores[i], i))[:k]
    found = recall.top(overlay.based(items, index.Index(), 0), scores, None, k)
    assert found == [(str(i), float(scores[i])) for i in wanted]
