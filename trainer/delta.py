"""The state as sections of an update: all of it (snapshot), or what was touched since the update before (delta)."""

from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch

from contract.settings import Model as Shape
from contract.updates import Chunk, Manifest, Section, cut, item_sections, tensor_sections, user_sections
from trainer.frequency import I64
from trainer.state import State
from trainer.tokens import Vocabulary

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


def published(state: State) -> None:
    """What was touched is out."""
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
        prior_weight=shape.prior_weight,
        prior_epsilon=shape.prior_epsilon,
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
        counts = state.counts.count[rows].astype(np.float32)
        yield from item_sections(ids, values, vectors, counts, state.counts.count_at[rows], gone, chunk_bytes)


def _chosen(ids: list[str | None], touched: np.ndarray, *, whole: bool) -> tuple[list[str], I64]:
    rows = range(len(ids)) if whole else np.flatnonzero(touched[: len(ids)]).tolist()
    chosen = [(text, row) for row in rows if (text := ids[row]) is not None]
    return [text for text, _ in chosen], np.array([row for _, row in chosen], np.int64)
