"""Samples to arrays.

B = 3 samples; histories newest first, flat, without items that have no row; P = 5

    user   item   history (flat, lengths)         profile   context tokens (flat, lengths)
      5     17     [3 9 | | 17 3 9]  [2 0 3]         2       [0 4 | 0 | ]   [2 1 0]
      8      3                                      -1
      5      9                                       2
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

from contract.messages import Sample
from trainer.frequency import I64
from trainer.tokens import NONE

MIX = 2**32


@dataclass
class Batch:
    """Arrays of B samples; rows are those of the tables."""

    samples: list[Sample]
    user: I64  # [B]
    item: I64  # [B]
    history: I64  # [P], P = sum of history_lengths
    history_lengths: I64  # [B]
    profile: I64  # [B]
    context: I64  # [sum of context_lengths]
    context_lengths: I64  # [B]
    ts_ms: I64  # [B]

    def __len__(self) -> int:
        """B."""
        return len(self.samples)


def build(
    samples: list[Sample],
    user_row: Callable[[str], int],
    item_row: Callable[[str], int],
    history_row: Callable[[str], int],
    profile_row: Callable[[str], int],
    context_rows: Callable[[dict[str, object]], I64],
    length: int,
) -> Batch:
    """Arrays of some samples; the callables give an id's row, and may admit it."""
    histories = [
        [row for entry in s.history[: -length - 1 : -1] if (row := history_row(entry.item_id)) >= 0] for s in samples
    ]
    contexts = [context_rows(s.context) if s.context else NONE for s in samples]
    return Batch(
        samples,
        np.array([user_row(s.user_id) for s in samples], np.int64),
        np.array([item_row(s.item_id) for s in samples], np.int64),
        np.array([row for rows in histories for row in rows], np.int64),
        np.array([len(rows) for rows in histories], np.int64),
        np.array([profile_row(s.user_id) for s in samples], np.int64),
        np.concatenate(contexts),
        np.array([len(c) for c in contexts], np.int64),
        np.array([s.ts_ms for s in samples], np.int64),
    )


def kept(
    samples: list[Sample], clicks: npt.NDArray[np.float64], keep_clicks: float, seed: int
) -> npt.NDArray[np.bool_]:
    """Which samples [B] of hot items are learned: with p = sqrt(keep_clicks / clicks [B]), at most 1.

    The coin is a hash of the seed and the sample's id, so every replay keeps the same ones.
    """
    if keep_clicks <= 0:
        return np.ones(len(samples), bool)
    coins = [
        zlib.crc32(msgspec.msgpack.encode((seed, s.user_id, s.request_id, s.exposure_ts_ms, s.item_id))) / MIX
        for s in samples
    ]
    return np.array(coins) < np.sqrt(keep_clicks / np.maximum(clicks, keep_clicks))
