"""One version at one sequence: everything that a request needs of it but the user. Pure.

It is immutable, so that a request is answered by one version whatever happens meanwhile.

    snapshot --from_snapshot--> Model 3/0 --advanced(delta 3/1)--> Model 3/1 ...    (the base is shared)
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import msgspec

from contract.updates import F32, Manifest, Update
from publisher import index, overlay
from publisher.overlay import Catalogue
from publisher.recall import Prior, prior_of
from publisher.tower import UserTower, user_tower


@dataclass(frozen=True, eq=False)
class Model:
    """Towers, items and prior of a version; `offset` is where on `updates` the next update is read."""

    version: int
    sequence: int
    offset: int
    manifest: Manifest  # the newest update's, with the snapshot's tokens
    tensors: dict[str, F32]
    tower: UserTower
    catalogue: Catalogue
    prior: Prior


def from_snapshot(update: Update, offset: int, exact_max_items: int) -> Model:
    """Model of a snapshot; builds its index (seconds to minutes above `exact_max_items`)."""
    items = overlay.decoded(update.items, update.manifest.dim)
    built = index.build(items.vectors, exact_max_items)
    catalogue = overlay.based(items, built, update.sequence)
    return assembled(update.version, update.sequence, offset, update.manifest, update.tensors, catalogue)


def assembled(
    version: int, sequence: int, offset: int, manifest: Manifest, tensors: dict[str, F32], catalogue: Catalogue
) -> Model:
    """Model of its parts."""
    tower = user_tower(manifest, tensors)
    return Model(version, sequence, offset, manifest, tensors, tower, catalogue, prior_of(catalogue, manifest))


def follows(model: Model, update: Update) -> bool:
    """Tell whether an update brings the model's version forward: the next delta, or a later snapshot."""
    if update.version != model.version or update.sequence <= model.sequence:
        return False
    return update.kind == "snapshot" or update.sequence == model.sequence + 1


def advanced(model: Model, update: Update, offset: int, exact_max_items: int) -> Model:
    """Model after an update that `follows`.

    A snapshot over an approximate index goes into the overlay as what differs, because building takes long.
    """
    if update.kind == "snapshot" and model.catalogue.index.exact:
        return from_snapshot(update, offset, exact_max_items)
    items = overlay.decoded(update.items, model.manifest.dim)
    deleted = [item for section in update.items for item in section.deleted]
    if update.kind == "snapshot":
        items, deleted = overlay.differing(model.catalogue, items)
    catalogue = overlay.changed(model.catalogue, items, deleted, update.sequence)
    manifest = update.manifest
    if update.kind == "snapshot":
        return assembled(model.version, update.sequence, offset, manifest, update.tensors, catalogue)
    manifest = msgspec.structs.replace(manifest, tokens=model.manifest.tokens)
    prior = prior_of(catalogue, manifest)
    return replace(model, sequence=update.sequence, offset=offset, manifest=manifest, catalogue=catalogue, prior=prior)


def without(model: Model, deleted: Iterable[str], offset: int) -> Model:
    """Model without items that a newer version deleted: who went back a version does not get them back."""
    gone = [item for item in deleted if model.catalogue.row(item) is not None]
    if not gone:
        return replace(model, offset=offset)
    nothing = index.no_items(model.manifest.dim)
    catalogue = overlay.changed(model.catalogue, nothing, gone, model.sequence)
    return replace(model, offset=offset, catalogue=catalogue, prior=prior_of(catalogue, model.manifest))


def on_newer_base(model: Model, built: Model) -> Model:
    """Model whose overlay lies over the base of `built`, the same version indexed anew at a sequence it has passed."""
    catalogue = overlay.rebased(model.catalogue, built.catalogue)
    return replace(model, catalogue=catalogue, prior=prior_of(catalogue, model.manifest))


def compacted(model: Model, exact_max_items: int) -> Model:
    """Model with its overlay worked into the base and the index built anew; as it is where there is no overlay."""
    if not len(model.catalogue.over) and not model.catalogue.hidden.any():
        return model
    catalogue = overlay.folded(model.catalogue, model.sequence)
    built = index.build(catalogue.base.vectors, exact_max_items)
    catalogue = replace(catalogue, index=built)
    return replace(model, catalogue=catalogue, prior=prior_of(catalogue, model.manifest))
