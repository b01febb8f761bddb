"""What the served model has learned since a day border, so that a candidate can go the same way. Pure.

Kept of every record: partition, offset, and the rank that the served model gave it (0: not scored); of every block, its
end.

    offset   40 41 77 42 | 43 78 79 | ...        a candidate learns the same blocks, each scored before it is learned
    rank      3  0 61  0 |  9  1  0 | ...
"""

from array import array
from typing import NamedTuple

import numpy as np

from trainer.days import Picks
from trainer.frequency import I64


class Block(NamedTuple):
    """One step of the served model."""

    picks: Picks
    ranks: I64  # [n]


class Trail:
    """Blocks in the order in which they were learned."""

    def __init__(self) -> None:
        self.partition, self.offset, self.rank = array("q"), array("q"), array("q")
        self.ends = array("q")  # of each block: records up to it

    def __len__(self) -> int:
        """Blocks."""
        return len(self.ends)

    def add(self, places: list[tuple[int, int]], ranks: I64) -> None:
        """Take a block: (partition, offset) of its records, and their ranks [n]."""
        self.partition.extend(p for p, _ in places)
        self.offset.extend(o for _, o in places)
        self.rank.extend(ranks.tolist())
        self.ends.append(len(self.offset))

    def blocks(self, begin: int, records: int) -> list[Block]:
        """Blocks from one on: as many as have about so many records, at least one."""
        found: list[Block] = []
        taken = 0
        while begin + len(found) < len(self) and taken < records:
            n = begin + len(found)
            part = slice(self.ends[n - 1] if n else 0, self.ends[n])
            picks = Picks(np.array(self.partition[part], np.int64), np.array(self.offset[part], np.int64))
            found.append(Block(picks, np.array(self.rank[part], np.int64)))
            taken += len(found[-1].ranks)
        return found

    def state(self) -> dict[str, I64]:
        """Arrays for a checkpoint."""
        arrays = {"partition": self.partition, "offset": self.offset, "rank": self.rank, "ends": self.ends}
        return {name: np.array(values, np.int64) for name, values in arrays.items()}

    def load(self, state: dict[str, I64]) -> None:
        """Take what `state` gave."""
        self.partition, self.offset, self.rank, self.ends = (
            array("q", state[name].tolist()) for name in ("partition", "offset", "rank", "ends")
        )
