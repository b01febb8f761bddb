"""Actions to interest: a set of actions on one shown item is a 4-bit mask, its score the number of bits, 0 to 4."""

from typing import Final

from contract.messages import ACTIONS

BITS: Final[dict[str, int]] = {action: 1 << place for place, action in enumerate(ACTIONS)}


def score(mask: int) -> int:
    """Score of a mask of `BITS`: how many different actions were made, 0 (shown only) to 4."""
    return mask.bit_count()
