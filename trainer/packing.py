"""The state as tensors and plain values, for a checkpoint; and back, to the same bits."""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from trainer.negatives import Drops
from trainer.state import State
from trainer.table import Index


class Packed(NamedTuple):
    """What a checkpoint's two data files hold."""

    tensors: dict[str, Tensor]
    plain: dict[str, Any]


def pack(state: State) -> Packed:
    """Everything of a state, without copying the large parts."""
    tensors = {f"live.{name}": t for name, t in state.live.tensors().items()}
    tensors |= {f"full.{name}": t for name, t in state.full.tensors().items()}
    arrays = {f"flags.{name}": flags for name, flags in state.flags.items()}
    arrays |= {f"last_seen.{name}": seen for name, seen in state.last_seen.items()}
    arrays |= {f"positives.{name}": values for name, values in state.positives.state().items()}
    for name, counts in (("counts", state.counts), ("popularity", state.popularity)):
        arrays |= {f"{name}.count": counts.count, f"{name}.count_at": counts.count_at}
    arrays |= {f"prior.{name}": array for name, array in state.prior.arrays().items()}
    arrays |= {"stale": state.stale, "digests": state.digests}
    tensors |= {name: torch.from_numpy(array) for name, array in arrays.items()}
    tensors["vectors"] = state.vectors
    plain = {
        "indexes": {name: [index.ids, index.free] for name, index in _indexes(state).items()},
        "now": [state.counts.now, state.popularity.now],
        "recall": state.recall.state(),
        "drops": [[user, list(items)] for user, items in state.drops.by_user.items()],
        "rng": rng_state(state.rng),
        "deleted": {name: sorted(ids) for name, ids in state.deleted.items()},
        "withdrawn": sorted(state.withdrawn),
        "numbers": state.numbers,
    }
    return Packed(tensors, plain)


def unpack(state: State, packed: Packed) -> None:
    """Make a new state, of the same shape, what was packed; features come again from their topics."""
    tensors, plain = packed
    for prefix, model in (("live.", state.live), ("full.", state.full)):
        model.load({name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)})
    arrays = {name: t.numpy() for name, t in tensors.items() if not name.startswith(("live.", "full."))}
    state.flags = {name: arrays[f"flags.{name}"] for name in state.flags}
    state.last_seen = {name: arrays[f"last_seen.{name}"] for name in state.last_seen}
    state.positives.load({name: arrays[f"positives.{name}"] for name in ("users", "lengths", "items", "ts_ms")})
    for name, counts, now in zip(("counts", "popularity"), (state.counts, state.popularity), plain["now"], strict=True):
        counts.count, counts.count_at, counts.now = arrays[f"{name}.count"], arrays[f"{name}.count_at"], now
    state.prior.load({n.removeprefix("prior."): array for n, array in arrays.items() if n.startswith("prior.")})
    state.stale, state.digests, state.vectors = arrays["stale"], arrays["digests"], tensors["vectors"]
    state.sent = np.zeros((len(state.stale), 2))
    state.of_row = np.full(len(state.stale), -1, np.int64)
    for name, index in _indexes(state).items():
        ids, free = plain["indexes"][name]
        Index.__init__(index, ids, free)
    state.recall.load(plain["recall"])
    state.drops = Drops()
    for user, items in plain["drops"]:
        state.drops.add(user, items)
    set_rng(state.rng, plain["rng"])
    state.deleted = {name: set(ids) for name, ids in plain["deleted"].items()}
    state.withdrawn = set(plain["withdrawn"])
    state.numbers |= plain["numbers"]


def pack_features(state: State) -> dict[str, Tensor]:
    """Each item's and each profile's tokens, which a checkpoint leaves to their topics: flat rows, and lengths."""
    packed: dict[str, Tensor] = {}
    for name, owners in (("item_tokens", state.item_tokens), ("profile_tokens", state.profile_tokens)):
        flat, lengths = owners.flat(np.arange(len(owners.lists)))
        packed |= {f"{name}.flat": torch.from_numpy(flat), f"{name}.lengths": torch.from_numpy(lengths)}
    return packed


def unpack_features(state: State, tensors: dict[str, Tensor]) -> None:
    """Take what `pack_features` gave, after `unpack`."""
    for name, owners in (("item_tokens", state.item_tokens), ("profile_tokens", state.profile_tokens)):
        lengths = tensors[f"{name}.lengths"].numpy()
        flat, ends = tensors[f"{name}.flat"].numpy(), np.cumsum(lengths)
        for owner, (begin, end) in enumerate(zip(ends - lengths, ends, strict=True)):
            owners.set(owner, flat[begin:end])


def rng_state(rng: np.random.Generator) -> Any:
    """Give a generator's state as plain values."""
    return _texts(rng.bit_generator.state)


def set_rng(rng: np.random.Generator, plain: Any) -> None:
    """Take what `rng_state` gave."""
    rng.bit_generator.state = _numbers(plain)


def _indexes(state: State) -> dict[str, Index]:
    return {
        "users": state.users,
        "items": state.items,
        "profiles": state.profiles,
        "profile": state.profile_tokens.vocabulary.index,
        "context": state.context.index,
        "item_features": state.item_tokens.vocabulary.index,
    }


def _texts(value: Any) -> Any:
    """Big whole numbers of a generator's state as texts: msgpack holds 64 bits."""
    if isinstance(value, dict):
        return {key: _texts(inner) for key, inner in value.items()}
    return f"int:{value}" if isinstance(value, int) else value


def _numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _numbers(inner) for key, inner in value.items()}
    return int(value[4:]) if isinstance(value, str) and value.startswith("int:") else value
