"""Which update comes next, which version is served, which versions are forgotten. Pure.

Updates are judged per version against the highest sequence applied of it:

    applied {3: 7}     snapshot 4/0  -> apply    delta 3/8 -> apply          delta 3/7 -> stale
                       snapshot 3/9  -> apply    delta 3/9 -> gap            delta 4/1 -> wrong version
                       (heals a gap)             (8 is missing)              (its snapshot never came)
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Literal

from contract.messages import Served


class Verdict(StrEnum):
    """What becomes of an update."""

    APPLY = "apply"
    STALE = "stale"
    GAP = "gap"
    WRONG_VERSION = "wrong version"


REFUSED = (Verdict.GAP, Verdict.WRONG_VERSION)


def judge(
    applied: Mapping[int, int], kind: Literal["snapshot", "delta"], version: int, sequence: int, keep_versions: int
) -> Verdict:
    """Verdict on an update, given the sequence applied of each version that is held.

    A snapshot stands for itself; a delta needs exactly the sequence before it. A version below `keep_versions` newer
    ones is stale whole: it would expire at once.
    """
    held = applied.get(version)
    if held is None:
        if sum(v > version for v in applied) >= keep_versions:
            return Verdict.STALE
        return Verdict.APPLY if kind == "snapshot" else Verdict.WRONG_VERSION
    if sequence <= held:
        return Verdict.STALE
    return Verdict.APPLY if kind == "snapshot" or sequence == held + 1 else Verdict.GAP


def freshness(held: tuple[int, int | None], arrival_ms: int, now_ms: int) -> tuple[int, int | None]:
    """Newest click arrival (0: none) and how long it took to be retrievable, after an update that holds `arrival_ms`.

    An update that brings no newer click (catalogue only, or read again) says nothing new about freshness.
    """
    return (arrival_ms, now_ms - arrival_ms) if arrival_ms > held[0] else held


def expired(versions: Iterable[int], served: Iterable[int], keep_versions: int) -> list[int]:
    """Versions to forget: all but the newest `keep_versions` and those that are served or would be gone back to."""
    newest_first = sorted(versions, reverse=True)
    return sorted(set(newest_first[keep_versions:]) - set(served))


def should_serve(pointer: Served | None, namespace: str, version: int) -> bool:
    """Tell whether a version that is wholly applied becomes the served one by itself.

    Not when another namespace was promoted, and not when it was served before: what an operator rolled back stays so
    until a newer version comes.
    """
    if pointer is None:
        return True
    before = 0 if pointer.previous_namespace else pointer.previous
    return pointer.namespace == namespace and version > max(pointer.version, before)


def serve(pointer: Served | None, namespace: str, version: int, ts_ms: int) -> Served:
    """Pointer to a version, which remembers the one before it in the same namespace."""
    same = pointer is not None and pointer.namespace == namespace and pointer.version != version
    return Served(namespace, version, pointer.version if pointer is not None and same else 0, ts_ms)
