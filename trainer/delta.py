"""The state as sections of an update: all of it (snapshot), or what was touched since the update before (delta)."""

from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch

from contract.settings import Model as Shape
from contract.updates import Chunk, Manifest, Section, cut, item_sections, tensor_sections, user_sections
from trainer.frequency import F64, I64
from trainer.state import State
from trainer.tokens import Vocabulary

DRIFT = 0.02  # of the prior's logarithm: an item whose served count is further off is sent again
TOKEN_TABLES = ("profile", "context", "item_features")


def unpublished(state: State) -> bool:
    """Whether anything has changed that a delta would carry."""
    touched = state.flags["users.touched"].any() or state.flags["items.touched"].any()
    return bool(touched or state.deleted["users"] or state.deleted["items"])


def update(
    kind: Literal["snapshot", "delta"],
    version: int,
    sequence: int,
    state: State,
    shape: Shape,
    history_length: int,
    published_ms: int,
    chunk_bytes: int,
) -> list[Chunk]:
    """Chunks of an update of the live model; changes nothing (see `published`)."""
    whole = kind == "snapshot"
    sections: list[Section] = [_manifest(state, shape, history_length, published_ms, whole=whole)]
    if whole:
        sections += _tensors(state, chunk_bytes)
    sections += _users(state, chunk_bytes, whole=whole)
    sections += _items(state, chunk_bytes, whole=whole)
    return cut(kind, version, sequence, sections)


def touch_drifted(state: State, half_life: float) -> None:
    """Touch the items whose count, as it was published and as the server decays it, is off by more than DRIFT.

    The server knows one half-life; what several make of a count differs from that as time goes on.
    """
    prior, rows = state.prior, state.items.rows
    if not prior.mixed:
        return
    sent, sent_at = state.sent[:rows].T  # [N], [N]
    served = sent * np.exp2((sent_at - prior.now) / half_life) + prior.epsilon
    off = np.abs(np.log((prior.counts(slice(0, rows)) + prior.epsilon) / served))  # [N]
    state.flags["items.touched"][:rows] |= (off > DRIFT) & state.flags["items.alive"][:rows]


def published(state: State, *, whole: bool) -> None:
    """What was touched is out, or everything."""
    rows = np.arange(state.items.rows) if whole else np.flatnonzero(state.flags["items.touched"][: state.items.rows])
    state.sent[rows] = np.stack(_counts(state, rows), axis=1)
    state.flags["users.touched"][:] = False
    state.flags["items.touched"][:] = False
    state.deleted = {"users": set(), "items": set()}


def _manifest(state: State, shape: Shape, history_length: int, published_ms: int, *, whole: bool) -> Manifest:
    return Manifest(
        dim=shape.dim,
        history_decays=list(shape.history_decays),
        history_length=history_length,
        hidden=shape.hidden,
        temperature=shape.temperature,
        correction=shape.correction,
        prior_weight=1.0 if state.prior.mixed else shape.prior_weight,
        prior_epsilon=state.prior.epsilon if state.prior.mixed else shape.prior_epsilon,
        prior_half_life_clicks=shape.prior_half_life_clicks,
        click_number=state.counts.now,
        event_ms=state.numbers["event_ms"],
        arrival_ms=state.numbers["arrival_ms"],
        published_ms=published_ms,
        samples=state.numbers["samples"],
        full_updates=state.numbers["full_updates"],
        users=len(state.users),
        items=len(state.items),
        metrics=state.recall.metrics(),
        tokens={n: v.tokens() for n, v in zip(TOKEN_TABLES, _vocabularies(state), strict=True)} if whole else {},
    )


def _vocabularies(state: State) -> tuple[Vocabulary, ...]:
    return state.profile_tokens.vocabulary, state.context, state.item_tokens.vocabulary


def _tensors(state: State, chunk_bytes: int) -> Iterator[Section]:
    for name, layer in state.live.layers.items():
        yield from tensor_sections(name, layer.numpy(), chunk_bytes)
    for name, vocabulary in zip(TOKEN_TABLES, _vocabularies(state), strict=True):
        rows = vocabulary.index.rows
        yield from tensor_sections(f"{name}.rows", state.live.tables[name].values[:rows].numpy(), chunk_bytes)


def _users(state: State, chunk_bytes: int, *, whole: bool) -> Iterator[Section]:
    ids, rows = _chosen(state.users.ids, state.flags["users.touched"], whole=whole)
    gone = [] if whole else sorted(state.deleted["users"] - state.users.row_of.keys())
    if ids or gone or whole:
        values = state.live.tables["users"].values[torch.from_numpy(rows)].numpy()
        yield from user_sections(ids, values, gone, chunk_bytes)


def _items(state: State, chunk_bytes: int, *, whole: bool) -> Iterator[Section]:
    ids, rows = _chosen(state.items.ids, state.flags["items.touched"], whole=whole)
    gone = [] if whole else sorted(state.deleted["items"] - state.items.row_of.keys())
    if ids or gone or whole:
        at = torch.from_numpy(rows)
        values = state.live.tables["items"].values[at].numpy()
        vectors = state.fresh_vectors()[at].numpy()
        counts, count_at = _counts(state, rows)
        yield from item_sections(ids, values, vectors, counts.astype(np.float32), count_at, gone, chunk_bytes)


def _counts(state: State, rows: I64 | slice) -> tuple[F64, F64]:
    """Counts [n] of the prior of some rows, and the click numbers [n] they are as of."""
    if not state.prior.mixed:
        return state.counts.count[rows], state.counts.count_at[rows]
    counts = state.prior.counts(rows)
    return counts, np.full(len(counts), state.prior.now)


def _chosen(ids: list[str | None], touched: np.ndarray, *, whole: bool) -> tuple[list[str], I64]:
    rows = range(len(ids)) if whole else np.flatnonzero(touched[: len(ids)]).tolist()
    chosen = [(text, row) for row in rows if (text := ids[row]) is not None]
    return [text for text, _ in chosen], np.array([row for _, row in chosen], np.int64)
