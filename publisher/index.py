"""The item index: every item scored, or an IVF-SQ8 shortlist from FAISS above a size, behind one call. Pure.

`shortlist` gives the rows worth scoring: None for all of them (then search is exact), or the nearest by cosine as FAISS
finds them (then it is approximate; what is on the list is scored exactly all the same). N items, D dim.

Source: FAISS wiki, "Guidelines to choose an index"; recall against exact is measured when the index is built.
"""

from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from contract.updates import F32

I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]
TRAIN_PER_LIST = 64
ADD_ROWS = 100_000
CHECKED_QUERIES = 200
CHECKED_K = 50
RECALL_FLOOR = 0.95


@dataclass(frozen=True, eq=False)
class Items:
    """Items in row order: ids [N], ID rows [N, D], unit vectors [N, D], counts [N] as of click numbers [N]."""

    ids: list[str]
    rows: F32
    vectors: F32
    counts: F32
    count_at: F64

    def __len__(self) -> int:
        return len(self.ids)


def no_items(dim: int) -> Items:
    """Give an empty catalogue."""
    none = np.zeros((0, dim), np.float32)
    return Items([], none, none, np.zeros(0, np.float32), np.zeros(0, np.float64))


def joined(parts: list[Items]) -> Items:
    """Items of several parts, one after another."""
    return Items(
        [item for part in parts for item in part.ids],
        np.concatenate([part.rows for part in parts]),
        np.concatenate([part.vectors for part in parts]),
        np.concatenate([part.counts for part in parts]),
        np.concatenate([part.count_at for part in parts]),
    )


def taken(items: Items, rows: I64) -> Items:
    """Items of some rows, in that order."""
    return Items(
        [items.ids[row] for row in rows.tolist()],
        items.rows[rows],
        items.vectors[rows],
        items.counts[rows],
        items.count_at[rows],
    )


@dataclass(frozen=True, eq=False)
class Index:
    """What finds the rows worth scoring; `ivf` None: all of them."""

    ivf: Any = None  # faiss.IndexIVF

    @property
    def exact(self) -> bool:
        """Search over it gives what scoring every item gives."""
        return self.ivf is None

    def shortlist(self, query: F32, rows: int) -> I64 | None:
        """About `rows` rows nearest to a unit vector [D] by inner product; None: score every row."""
        if self.ivf is None:
            return None
        _, found = self.ivf.search(query[None, :], rows)
        return found[0][found[0] >= 0]  # type: ignore[no-any-return]


def build(vectors: F32, exact_max_items: int) -> Index:
    """Index of unit vectors [N, D]; IVF-SQ8 above `exact_max_items`, probing until RECALL_FLOOR is met."""
    if len(vectors) <= exact_max_items:
        return Index()
    lists = max(1, min(int(4 * len(vectors) ** 0.5), len(vectors) // 39))
    ivf: Any = faiss.index_factory(vectors.shape[1], f"IVF{lists},SQ8", faiss.METRIC_INNER_PRODUCT)
    rng = np.random.default_rng(1)
    sample = rng.choice(len(vectors), min(len(vectors), TRAIN_PER_LIST * lists), replace=False)
    ivf.train(np.ascontiguousarray(vectors[np.sort(sample)]))
    for first in range(0, len(vectors), ADD_ROWS):
        ivf.add(np.ascontiguousarray(vectors[first : first + ADD_ROWS]))
    index = Index(ivf)
    ivf.nprobe = min(lists, 16)
    while ivf.nprobe < lists and recall_at_k(index, vectors) < RECALL_FLOOR:
        ivf.nprobe = min(lists, ivf.nprobe * 2)
    return index


def recall_at_k(index: Index, vectors: F32, k: int = CHECKED_K) -> float:
    """Share of the exact nearest `k` that a shortlist of 4 k holds; queries mix three items, as users do."""
    if index.exact or len(vectors) == 0:
        return 1.0
    rng = np.random.default_rng(2)
    k = min(k, len(vectors))
    hits = 0
    for _ in range(CHECKED_QUERIES):
        query = unit(vectors[rng.integers(0, len(vectors), 3)].sum(axis=0))  # [D]
        found = index.shortlist(query, 4 * k)
        wanted = np.argpartition(-(vectors @ query), k - 1)[:k]
        hits += len(np.intersect1d(wanted, found)) if found is not None else k
    return hits / (k * CHECKED_QUERIES)


def unit(vector: F32) -> F32:
    """Vectors [.., D] brought to length 1; zero stays zero."""
    norm = np.linalg.norm(vector, axis=-1, keepdims=True)
    return (vector / np.maximum(norm, np.float32(1e-12))).astype(np.float32)  # type: ignore[no-any-return]
