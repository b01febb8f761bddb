"""The audit of the publisher: Redis and the index files against `updates`, `histories` and `profiles`.

user rows    Redis rows of the served version = its snapshot and deltas, byte for byte
histories    Redis = the newest record of each user; likewise profiles
keys         every key of the namespace belongs to a version that is held, or to one of the kinds above
index        the same ids as the version's, rows and vectors bit for bit, once the deltas behind it are laid over
codes        of an approximate index: each stored code is what its own quantiser makes of the vector
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from contract.kafka import partition_counts, reach, read_to_end
from contract.redis import reach as reach_redis
from contract.settings import Settings
from headrace.audit_compare import Check, compare
from headrace.audit_updates import ItemState, Version, replayed, whole_updates

if TYPE_CHECKING:
    from publisher.model import Model
    from publisher.store import Store

Progress = Callable[[int, int], object]
KINDS = ("histories", "profiles")


def check(settings: Settings, _: Progress) -> list[Check]:
    """Audit Redis and the index files; nothing to check before a version is served from this namespace."""
    from publisher import control  # noqa: PLC0415  (heavy: faiss; other commands do not wait for it)
    from publisher.store import Store  # noqa: PLC0415

    pointer = control.pointer_of(settings)
    if pointer is None or pointer.namespace != settings.namespace:
        return []
    versions = replayed(whole_updates(_values(settings, "updates")))
    expected = versions.get(pointer.version, Version())
    store = Store(reach_redis(settings.redis), settings.names)
    return [
        _sequence(store, pointer.version, expected),
        _rows(store, pointer.version, expected),
        *(_users(settings, store, kind) for kind in KINDS),
        _keys(store),
        *_index(settings, pointer.version, expected),
    ]


def _values(settings: Settings, topic: str) -> Iterator[bytes]:
    for message in read_to_end(settings.kafka, settings.names.topic(topic), [0]):
        if (value := message.value()) is not None:
            yield bytes(value)


def _sequence(store: "Store", version: int, expected: Version) -> Check:
    check_ = Check("publisher", "applied sequence")
    applied = store.applied().get(f"version:{version}")
    compare(check_, "version", {version: expected.sequence}, [] if applied is None else [(version, applied)])
    return check_


def _rows(store: "Store", version: int, expected: Version) -> Check:
    from publisher.store import BUCKETS, bucket  # noqa: PLC0415

    def found() -> Iterator[tuple[str, bytes]]:
        for at in range(BUCKETS):
            for user, row in _hash(store, store.names.key("rows", version, f"{{{at}}}")):
                yield (user if bucket(user) == at else f"{user} in bucket {at}"), row

    check_ = Check("publisher", "user rows")
    compare(check_, f"version {version}", expected.users, found())
    return check_


def _users(settings: Settings, store: "Store", kind: str) -> Check:
    from publisher.store import BUCKETS  # noqa: PLC0415

    topic = settings.names.topic(kind)
    partitions = list(range(partition_counts(reach(settings.kafka))[topic]))
    last: dict[str, bytes] = {}
    for message in read_to_end(settings.kafka, topic, partitions):
        key, value = _text(message.key()), message.value()
        if value is None:
            last.pop(key, None)
        else:
            last[key] = bytes(value)
    found = (pair for at in range(BUCKETS) for pair in _hash(store, store.names.key(kind, f"{{{at}}}")))
    check_ = Check("publisher", kind)
    compare(check_, topic, last, found)
    return check_


def _hash(store: "Store", key: str) -> Iterator[tuple[str, bytes]]:
    found: Any = store.client.hgetall(key)
    for field, value in found.items():
        yield _text(field), value


def _keys(store: "Store") -> Check:
    """Keys that nobody will ever read or remove."""
    check_ = Check("publisher", "keys")
    held = {name.removeprefix("version:") for name in store.applied() if name.startswith("version:")}
    begin = store.names.key("")
    single = {"applied", "served", "heartbeat"}
    for key in store.client.scan_iter(match=f"{_escaped(begin)}*", count=1_000):
        check_.found += 1
        kind, _, rest = _text(key).removeprefix(begin).partition(":")
        version, _, tail = rest.partition(":")
        known = kind in single or kind in KINDS or (kind == "manifest" and version in held)
        known = known or (kind == "rows" and version in held and not tail.endswith(":new"))
        if not known and store.client.ttl(key) < 0:
            check_.extra += 1
            check_.example(f"{_text(key)} belongs to nothing that is held")
    check_.expected = check_.found - check_.extra
    return check_


def _escaped(text: str) -> str:
    return "".join(f"\\{c}" if c in "*?[]\\^" else c for c in text)


def _index(settings: Settings, version: int, expected: Version) -> list[Check]:
    from publisher import index_files  # noqa: PLC0415

    items = Check("publisher", "index items")
    model, refused = index_files.newest(settings.files, settings.namespace, version)
    for reason in refused:
        items.different += 1
        items.example(reason)
    if model is None:
        if expected.manifest is not None:
            items.missing += 1
            items.example(f"version {version} has no index files under {settings.files}")
        return [items]
    codes = _codes(model)
    ahead = _advanced(settings, model)
    compare(items, f"version {version}", {"sequence": expected.sequence}, [("sequence", ahead.sequence)])
    compare(items, f"version {version}", expected.items, _items(ahead))
    return [items, *codes]


def _advanced(settings: Settings, model: "Model") -> "Model":
    """Lay over an index what came on `updates` since, as a server does."""
    from contract.errors import BadInputError  # noqa: PLC0415
    from contract.updates import Assembler, decode_chunk  # noqa: PLC0415
    from publisher.model import advanced, follows  # noqa: PLC0415

    assembler = Assembler()
    for value in _values(settings, "updates"):
        try:
            update = assembler.add(decode_chunk(value))
        except BadInputError:
            continue
        if update is not None and follows(model, update):
            model = advanced(model, update, model.offset, settings.publisher.exact_max_items)
    return model


def _items(model: "Model") -> Iterator[tuple[str, ItemState]]:
    catalogue = model.catalogue
    for part, hidden in ((catalogue.base, catalogue.hidden), (catalogue.over, None)):
        for row, item in enumerate(part.ids):
            if hidden is None or not hidden[row]:
                yield (
                    item,
                    ItemState(
                        part.rows[row].tobytes(),
                        part.vectors[row].tobytes(),
                        part.counts[row].tobytes(),
                        part.count_at[row].tobytes(),
                    ),
                )


def _codes(model: "Model") -> list[Check]:
    """Codes in the inverted lists against the quantiser's own of the vectors; none where search is exact."""
    import faiss  # noqa: PLC0415
    import numpy as np  # noqa: PLC0415

    ivf, vectors = model.catalogue.index.ivf, model.catalogue.base.vectors
    if ivf is None:
        return []
    made = ivf.sa_encode(np.ascontiguousarray(vectors))  # [N, list number and code]
    head = made.shape[1] - ivf.code_size
    expected = {row: made[row].tobytes() for row in range(len(vectors))}

    def found() -> Iterator[tuple[int, bytes]]:
        lists = ivf.invlists
        for number in range(ivf.nlist):
            size = lists.list_size(number)
            if not size:
                continue
            rows = faiss.rev_swig_ptr(lists.get_ids(number), size)
            stored = faiss.rev_swig_ptr(lists.get_codes(number), size * ivf.code_size).reshape(size, -1)
            for row, code in zip(rows.tolist(), stored, strict=True):
                yield row, number.to_bytes(head, "little") + code.tobytes()

    check_ = Check("publisher", "index codes")
    compare(check_, f"version {model.version}", expected, found())
    return [check_]


def _text(data: Any) -> str:
    return data.decode("utf-8", "replace") if isinstance(data, bytes) else str(data or "")
