"""The Redis layout: rows by version, histories and profiles, and how far each of them is applied.

    headrace:<namespace>:rows:<version>:{17}    hash  user_id -> user-ID row, float32 [D]
    headrace:<namespace>:histories:{17}         hash  user_id -> History, the record's bytes
    headrace:<namespace>:profiles:{17}          hash  user_id -> User, the record's bytes
    headrace:<namespace>:applied                hash  updates, histories:<p>, profiles:<p> -> next offset to read
                                                      version:<v> -> sequence, writes -> times it was written
    headrace:<namespace>:manifest:<version>     hash  manifest (msgpack), sequence, applied_ms, freshness_ms
    headrace:<namespace>:served                 Served, a mirror of `control`
    headrace:<namespace>:heartbeat              wall time of the publisher's last sign of life

17 is crc32(user_id) % BUCKETS; as a hash tag it puts a user's three values on one node of a Redis Cluster, so one
pipeline of three HGETs answers a request. Hashes by bucket were written three times as fast as pipelined SETs here
(245k against 80k rows of 128 bytes a second; 64 to 256 buckets are alike, 4,096 lose it again), and let a version
expire with 256 commands instead of a scan. What is applied is written after the rows it counts.
"""

import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import msgspec
from redis import RedisError

from contract import crash
from contract.messages import Served, decoder, encode
from contract.redis import Client
from contract.topics import Names
from contract.updates import Manifest, UserRows

BUCKETS = 256
BATCH_BYTES = 4_000_000
EXPIRE_S = 600  # a server that still answers from an old version has this long to see the pointer
SET_IF_HELD = """
if (redis.call('HGET', KEYS[1], 'writes') or '0') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV, 2))
return 1
"""
Kind = Literal["histories", "profiles"]


class RolledBackError(RedisError):
    """Redis holds less than was written to it."""


_manifest = decoder(Manifest)
_served = decoder(Served)


class UserValues(NamedTuple):
    """What Redis knows of a user: packed row, History and User records; None: nothing."""

    row: bytes | None
    history: bytes | None
    profile: bytes | None


def bucket(user_id: str) -> int:
    """Bucket of a user."""
    return zlib.crc32(user_id.encode()) % BUCKETS


class Store:
    """One namespace's keys."""

    def __init__(self, client: Client, names: Names) -> None:
        self.client = client
        self.names = names

    def _rows_key(self, version: int, at: int) -> str:
        return self.names.key("rows", version, f"{{{at}}}")

    def _user_key(self, kind: Kind, at: int) -> str:
        return self.names.key(kind, f"{{{at}}}")

    def user(self, version: int, user_id: str) -> UserValues:
        """What is known of a user, the row under one version's key."""
        at = bucket(user_id)
        pipeline = self.client.pipeline(transaction=False)
        pipeline.hget(self._rows_key(version, at), user_id)
        pipeline.hget(self._user_key("histories", at), user_id)
        pipeline.hget(self._user_key("profiles", at), user_id)
        return UserValues(*pipeline.execute())

    # ---- applied -----------------------------------------------------------------------------------------------------

    def applied(self) -> dict[str, int]:
        """Next offset by `updates`, `histories:<p>`, `profiles:<p>`; sequence by `version:<v>`."""
        found: Any = self.client.hgetall(self.names.key("applied"))
        return {name.decode(): int(value) for name, value in found.items()}

    def set_applied(self, values: Mapping[str, int], held: Mapping[str, int]) -> dict[str, int]:
        """Write down what is applied, after it is, over `held`; gives the fields written.

        Raises RolledBackError where Redis does not hold `held`: it was emptied or rolled back since, and what was
        applied before is not there. `writes`, which counts these calls, tells.
        """
        writes = held.get("writes", 0)
        told = {**values, "writes": writes + 1}
        arguments = [part for field in told.items() for part in field]
        if not self.client.eval(SET_IF_HELD, 1, self.names.key("applied"), writes, *arguments):
            raise RolledBackError("Redis was emptied or rolled back while it was written to")
        return told

    def forget_applied(self, fields: list[str]) -> None:
        """Take back what was written down as applied."""
        if fields:
            self.client.hdel(self.names.key("applied"), *fields)

    # ---- histories and profiles --------------------------------------------------------------------------------------

    def put_users(self, kind: Kind, values: Mapping[str, bytes | None]) -> None:
        """Set users' records; None deletes."""
        put = ((user, value) for user, value in values.items() if value is not None)
        self._write((self._user_key(kind, at), fields) for at, fields in _batches(put))
        self._delete(lambda at: self._user_key(kind, at), [user for user, value in values.items() if value is None])

    def clear_users(self, kind: Kind) -> None:
        """Forget all users' records of a kind."""
        self._run(("UNLINK", self._user_key(kind, at)) for at in range(BUCKETS))

    # ---- rows --------------------------------------------------------------------------------------------------------

    def put_rows(self, version: int, sections: Iterable[UserRows], dim: int) -> int:
        """Set a delta's rows and delete its deleted ones; how many rows."""
        count = 0
        for section in sections:
            self._write((self._rows_key(version, at), fields) for at, fields in _batches(_rows(section, dim)))
            self._delete(lambda at: self._rows_key(version, at), section.deleted)
            count += len(section.ids)
        return count

    def replace_rows(self, version: int, sections: Iterable[UserRows], dim: int) -> int:
        """Make a version's rows exactly those of a snapshot; how many.

        Written beside and renamed bucket by bucket: a reader sees a bucket as it was or as it is.
        """
        self._run(("UNLINK", f"{self._rows_key(version, at)}:new") for at in range(BUCKETS))
        count = 0
        filled: set[int] = set()
        for section in sections:
            batches = list(_batches(_rows(section, dim)))
            filled.update(at for at, _ in batches)
            self._write((f"{self._rows_key(version, at)}:new", fields) for at, fields in batches)
            count += len(section.ids)
        crash.point("publisher.rows")
        self._run(("RENAME", f"{self._rows_key(version, at)}:new", self._rows_key(version, at)) for at in filled)
        self._run(("UNLINK", self._rows_key(version, at)) for at in range(BUCKETS) if at not in filled)
        return count

    def delete_rows(self, versions: Iterable[int], users: list[str]) -> None:
        """Delete users' rows from versions."""
        for version in versions if users else ():
            self._delete(lambda at, v=version: self._rows_key(v, at), users)

    def expire(self, versions: Iterable[int]) -> None:
        """Let versions go: at once for `applied`, EXPIRE_S later for readers."""
        for version in versions:
            self._run(("EXPIRE", self._rows_key(version, at), EXPIRE_S) for at in range(BUCKETS))
            self.client.expire(self.names.key("manifest", version), EXPIRE_S)
            self.client.hdel(self.names.key("applied"), f"version:{version}")

    # ---- manifest, pointer, heartbeat --------------------------------------------------------------------------------

    def put_manifest(
        self, version: int, sequence: int, manifest: Manifest, applied_ms: int, freshness_ms: int | None
    ) -> None:
        """Write down what a version is, for `headrace status`; tokens are left out."""
        told: dict[Any, Any] = {
            "manifest": encode(msgspec.structs.replace(manifest, tokens={})),
            "sequence": sequence,
            "applied_ms": applied_ms,
            "freshness_ms": "" if freshness_ms is None else freshness_ms,
        }
        self.client.hset(self.names.key("manifest", version), mapping=told)
        self.client.persist(self.names.key("manifest", version))

    def freshness(self, version: int) -> tuple[int, int | None]:
        """Newest click arrival of a version and how long it took to be applied; (0, None) where it is not known."""
        found: Any = self.client.hmget(self.names.key("manifest", version), ["manifest", "freshness_ms"])
        packed, freshness_ms = found
        if packed is None:
            return 0, None
        return _manifest.decode(packed).arrival_ms, int(freshness_ms) if freshness_ms else None

    def mirror(self, pointer: Served) -> None:
        """Write down the served pointer as `control` has it."""
        self.client.set(self.names.key("served"), encode(pointer))

    def beat(self, now_ms: int) -> None:
        """Leave a sign of life."""
        self.client.set(self.names.key("heartbeat"), now_ms)

    def heartbeat_ms(self) -> int | None:
        """Wall time of the publisher's last sign of life."""
        value: Any = self.client.get(self.names.key("heartbeat"))
        return None if value is None else int(value)

    # ---- batches -----------------------------------------------------------------------------------------------------

    def _write(self, batches: Iterable[tuple[str, list[Any]]]) -> None:
        self._run(("HSET", key, *fields) for key, fields in batches)

    def _delete(self, key_of: Any, users: list[str]) -> None:
        by_bucket: dict[int, list[str]] = {}
        for user in users:
            by_bucket.setdefault(bucket(user), []).append(user)
        self._run(("HDEL", key_of(at), *fields) for at, fields in by_bucket.items())

    def _run(self, commands: Iterable[tuple[Any, ...]]) -> None:
        """Run commands in pipelines of bounded size; the first error is raised."""
        pipeline, waiting = self.client.pipeline(transaction=False), 0
        for command in commands:
            pipeline.execute_command(*command)
            waiting += len(command)
            if waiting >= 20_000:  # noqa: PLR2004  (arguments; keeps a pipeline at a few MB)
                pipeline.execute()
                waiting = 0
        if waiting:
            pipeline.execute()


def read_status(client: Client, names: Names) -> dict[str, Any]:
    """What `headrace status` shows of the served model; empty before one is served."""
    value: Any = client.get(names.key("served"))
    if value is None:
        return {}
    pointer: Served = _served.decode(value)
    found: Any = client.hgetall(Names(names.prefix, pointer.namespace).key("manifest", pointer.version))
    told = {"namespace": pointer.namespace, "version": pointer.version, "previous": pointer.previous}
    if not found:
        return told
    manifest: Manifest = _manifest.decode(found[b"manifest"])
    return told | {
        "sequence": int(found[b"sequence"]),
        "full_updates": manifest.full_updates,
        "samples": manifest.samples,
        "recall_at_50": manifest.metrics.get("recall_at_50"),
        "popularity_recall_at_50": manifest.metrics.get("popularity_recall_at_50"),
        "freshness_ms": int(found[b"freshness_ms"]) if found[b"freshness_ms"] else None,
        "event_ms": manifest.event_ms,
        "published_ms": manifest.published_ms,
        "applied_ms": int(found[b"applied_ms"]),
        "items": manifest.items,
        "users": manifest.users,
        "metrics": manifest.metrics,
    }


def _rows(section: UserRows, dim: int) -> Iterator[tuple[str, bytes]]:
    width = dim * 4
    for n, user in enumerate(section.ids):
        yield user, section.rows[n * width : (n + 1) * width]


def _batches(values: Iterable[tuple[str, bytes]]) -> Iterator[tuple[int, list[Any]]]:
    """(bucket, [field, value, field, value, ..]) of at most about BATCH_BYTES in sum before they are given out."""
    by_bucket: dict[int, list[Any]] = {}
    held = 0
    for user, value in values:
        by_bucket.setdefault(bucket(user), []).extend((user, value))
        held += len(user) + len(value)
        if held >= BATCH_BYTES:
            yield from by_bucket.items()
            by_bucket, held = {}, 0
    yield from by_bucket.items()
