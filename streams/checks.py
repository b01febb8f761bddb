"""What becomes of one record of `items` or `users`: checked in, passed on as deleted, or dead-lettered. Pure."""

from typing import Literal, NamedTuple, TypeVar

import msgspec

from contract.errors import BadInputError
from contract.kafka import partition_of
from contract.messages import MAX_ID_BYTES, Item, User, decode_raw, encode
from streams.door import MAX_EVENT_BYTES, Refused

Checked = Literal["items", "users"]
T = TypeVar("T", Item, User)
DERIVED: dict[Checked, str] = {"items": "catalogue", "users": "profiles"}


class CheckedIn(NamedTuple):
    """What goes to the derived topic; `value` None deletes."""

    key: bytes
    value: bytes | None


def check(topic: Checked, key: bytes | None, value: bytes | None, partition: int, partitions: int) -> CheckedIn:
    """Check one record; raises Refused.

    A user lies on the partition of its key, or its deletion would not reach the loop that holds its history. Items
    are read by everybody, so theirs may lie anywhere.
    """
    if not value:
        made = CheckedIn(_deleted(key), None)
    elif len(value) > MAX_EVENT_BYTES:
        raise Refused("broken", f"Expected at most {MAX_EVENT_BYTES} bytes, got {len(value)}")
    elif topic == "items":
        item = _decode(Item, value)
        made = CheckedIn(item.item_id.encode(), encode(item))
    else:
        user = _decode(User, value)
        made = CheckedIn(user.user_id.encode(), encode(user))
    if topic == "users" and (home := partition_of(made.key, partitions)) != partition:
        text = f"Expected partition {home} for user_id {made.key.decode()!r} (murmur2), got {partition}"
        raise Refused("wrong_partition", f"{text}: set the producer's partitioner to murmur2_random")
    return made


def _decode(kind: type[T], value: bytes) -> T:
    try:
        return decode_raw(kind, value)
    except (BadInputError, msgspec.MsgspecError) as error:
        raise Refused("broken", str(error)) from None


def _deleted(key: bytes | None) -> bytes:
    if not key:
        raise Refused("broken", "Expected the id to delete as the record's key, got an empty record without one")
    if len(key) > MAX_ID_BYTES:
        raise Refused("broken", f"Expected a key of at most {MAX_ID_BYTES} bytes, got {len(key)}")
    try:
        key.decode()
    except UnicodeDecodeError:
        raise Refused("broken", "Expected a UTF-8 key, got bytes that are not") from None
    return key
