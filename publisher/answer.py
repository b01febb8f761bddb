"""What the recall server answers, apart from HTTP: the ladder from a known user down to popular items.

    ID row, history, profile, context  --(what there is)-->  user vector  -->  candidates
    nothing known of the user          ------------------->  popular items (score: the prior alone)
    Redis does not answer              --> as if nothing but the context were known, `degraded` says so
    no model yet                       --> no candidates, `degraded` says so

One request, one `Serving`: user row, tower, items and prior are of one version.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import redis

from contract.features import text_of
from contract.messages import History, User, decoder
from contract.updates import F32
from publisher import recall
from publisher.follow import Follower, Serving
from publisher.model import Model
from publisher.store import UserValues
from publisher.tower import recent_clicks, seen_items

_history = decoder(History)
_user = decoder(User)
NO_VALUES = UserValues(None, None, None)


class Candidate(msgspec.Struct, frozen=True):
    """An item and its score."""

    item: str
    score: float


class RecallAnswer(msgspec.Struct, frozen=True):
    """Candidates of one user, best first."""

    user: str
    namespace: str
    version: int  # 0: no model yet
    sequence: int
    freshness_ms: int | None  # click arrival to retrievable, of the newest update behind this answer
    basis: list[str]  # what the user vector was made of: id, history, profile, context; none of them: popular items
    degraded: str | None  # why this is less than it could be
    candidates: list[Candidate]


class SimilarAnswer(msgspec.Struct, frozen=True):
    """Items nearest to one by cosine, nearest first."""

    item: str
    namespace: str
    version: int
    sequence: int
    candidates: list[Candidate]


class Recaller:
    """Answers from what the follower serves at the moment of the call; safe to call from any thread."""

    def __init__(self, follower: Follower) -> None:
        self.follower = follower

    def recall(self, user: str, k: int, exclude_seen: str, context: Mapping[str, Any]) -> RecallAnswer:
        """Candidates of a user; never fails because of what is missing."""
        serving = self.follower.serving
        if serving is None:
            return RecallAnswer(user, self.follower.settings.namespace, 0, 0, None, [], "no model yet", [])
        values, failure = self._values(serving, user)
        degraded = [reason for reason in (failure, self.follower.behind, self._silence()) if reason]
        candidates, basis, broken = candidates_of(serving.model, values, k, exclude_seen, context)
        return RecallAnswer(
            user,
            serving.namespace,
            serving.model.version,
            serving.model.sequence,
            serving.freshness_ms,
            basis,
            "; ".join(degraded + broken) or None,
            [Candidate(item, score) for item, score in candidates],
        )

    def similar(self, item: str, k: int) -> SimilarAnswer | None:
        """Items nearest to an item by cosine; None: no model, or no such item."""
        serving = self.follower.serving
        row = serving.model.catalogue.row(item) if serving else None
        if serving is None or row is None:
            return None
        found = serving.model
        hidden = np.where(np.isneginf(found.prior.added), found.prior.added, np.float32(0))  # [rows]
        none = np.zeros(0, np.int64)
        near = recall.search(found.catalogue, 1.0, hidden, none, found.catalogue.vector(row), k, [row])
        candidates = [Candidate(other, score) for other, score in near]
        return SimilarAnswer(item, serving.namespace, found.version, found.sequence, candidates)

    def _values(self, serving: Serving, user: str) -> tuple[UserValues, str | None]:
        error = self.follower.redis_error
        if error is None:
            try:
                return serving.store.user(serving.model.version, user), None
            except redis.RedisError as failure:
                # The follower asks Redis again once a second; until it answers no request waits for it.
                error = self.follower.redis_error = type(failure).__name__
        return NO_VALUES, f"Redis does not answer ({error}): the user's row, history and profile are left out"

    def _silence(self) -> str | None:
        since_ms = self.follower.silent_since_ms
        return None if since_ms is None else f"the publisher is silent since {since_ms} (epoch ms)"


def candidates_of(
    model: Model, values: UserValues, k: int, exclude_seen: str, context: Mapping[str, Any]
) -> tuple[list[tuple[str, float]], list[str], list[str]]:
    """(item, score) best first, the basis of the vector, and what of the stored values could not be read. Pure."""
    history, profile, broken = _decoded(values)
    row = _row(values.row, model.tower.dim)
    catalogue, prior, tower = model.catalogue, model.prior, model.tower
    clicked = [catalogue.row(item) for item in recent_clicks(history, tower.history_length)]
    item_rows = [catalogue.id_row(at) for at in clicked if at is not None]
    context = as_known(context, tower.context_row_of)
    basis = [
        name
        for name, there in (
            ("id", row is not None),
            ("history", bool(item_rows)),
            ("profile", tower.knows(tower.profile_row_of, profile)),
            ("context", tower.knows(tower.context_row_of, context)),
        )
        if there
    ]
    seen = [catalogue.row(item) for item in seen_items(history, exclude_seen)]
    excluded = [at for at in seen if at is not None]
    if not basis:
        nothing = np.zeros(tower.dim, np.float32)
        found = recall.search(catalogue, prior.scale, prior.popular, prior.best, nothing, k, excluded)
        return found, basis, broken
    query = tower.vectors(tower.inputs(row, item_rows, profile, context)[None, :])[0]  # [D]
    return recall.search(catalogue, prior.scale, prior.added, prior.best, query, k, excluded), basis, broken


def as_known(context: Mapping[str, Any], row_of: Mapping[tuple[str, str], int]) -> dict[str, Any]:
    """Context with the types that the model knows, for a query string has only texts.

    "1" stays the text where the model knows the text, and becomes the number 1 where it knows that one.
    """
    return {name: _known(name, value, row_of) if isinstance(value, str) else value for name, value in context.items()}


def _known(name: str, text: str, row_of: Mapping[tuple[str, str], int]) -> Any:
    if (name, text_of(text)) in row_of:
        return text
    try:
        value = msgspec.json.decode(text, type=bool | int | float)
        return value if (name, text_of(value)) in row_of else text
    except (msgspec.DecodeError, OverflowError):
        return text


def _decoded(values: UserValues) -> tuple[History, Mapping[str, Any], list[str]]:
    history = History([])
    profile: Mapping[str, Any] = {}
    broken = []
    try:
        history = _history.decode(values.history) if values.history is not None else history
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        broken.append(f"the user's history does not decode: {error}")
    try:
        profile = _user.decode(values.profile).features if values.profile is not None else profile
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        broken.append(f"the user's profile does not decode: {error}")
    return history, profile, broken


def _row(packed: bytes | None, dim: int) -> F32 | None:
    if packed is None or len(packed) != dim * 4:
        return None
    row: F32 = np.frombuffer(packed, "<f4")
    return row
