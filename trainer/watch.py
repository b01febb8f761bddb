"""The cheaper gate, of deltas: while the live model is not sound nothing of it is published. Pure.

not finite      a user or item row, or an item vector, that the delta would carry holds NaN or infinity
vector norms    one of the vectors is longer than a unit vector
recall          recall_at_50 of the newest `min_samples` scored samples is less than (1 - drop) times that of those
                before them; they are counted anyway, so this costs nothing

What was published last stays. Deltas go on when the model is sound again (after a drop: as good as before it, less the
same allowance), or when a full update has passed.
"""

from typing import Any

import numpy as np
import torch

from trainer.evaluate import KS, Recall
from trainer.gate import K, dropped, unsound
from trainer.state import State

AT = KS.index(K)


class Watch:
    """Why nothing is published, if so."""

    def __init__(self, min_samples: int, drop: float) -> None:
        self.min_samples, self.drop = min_samples, drop
        self.reason = ""
        self.before = 0.0  # recall before a drop; 0: there was none
        self.begun = 0  # scored samples when the live model was taken over

    def holds(self, state: State) -> str:
        """Look at what a delta would carry; give why it may not go out, or nothing."""
        self.reason = self._unsound(state) or self._dropped(state.recall)
        return self.reason

    def forget(self, scored: int) -> None:
        """Another model is live from now on."""
        self.reason, self.before, self.begun = "", 0.0, scored

    def _unsound(self, state: State) -> str:
        touched = (state.flags["users.touched"], state.flags["items.touched"][: state.items.rows])
        users, items = (torch.from_numpy(np.flatnonzero(flags)) for flags in touched)
        tables = state.live.tables
        norms = state.fresh_vectors()[items].norm(dim=1)  # [n]
        sums = [tables["users"].values[users].sum(), tables["items"].values[items].sum(), norms.sum()]
        longest = float(norms.max()) if len(norms) else 0.0
        return unsound(longest, finite=bool(torch.isfinite(torch.stack(sums)).all()))

    def _dropped(self, recall: Recall) -> str:
        """Compare the newest samples with those before them, or with what was before a drop."""
        newest, hits, rest = 0, 0, list(recall.recent)
        while rest and newest < self.min_samples:
            scored, found = rest.pop()
            newest, hits = newest + scored, hits + int(found[AT])
        if newest < self.min_samples or recall.scored - self.begun < self.min_samples:
            return self.reason if self.before else ""
        earlier = sum(scored for scored, _ in rest)
        before = self.before
        if not before and earlier >= self.min_samples:
            before = sum(int(found[AT]) for _, found in rest) / earlier
        reason = dropped(hits / newest, before, newest, self.drop)
        self.before = before if reason else 0.0
        return reason

    def state(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return {"watch": {"reason": self.reason, "before": self.before, "begun": self.begun}}

    def load(self, plain: dict[str, Any]) -> None:
        """Take what `state` gave."""
        found = plain.get("watch", self.state()["watch"])
        self.reason, self.before, self.begun = found["reason"], found["before"], found["begun"]
