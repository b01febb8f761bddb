"""Catalogue and profiles: read whole at start, then followed. A checkpoint holds no features."""

import threading
from typing import cast

from confluent_kafka import KafkaException, TopicPartition

from contract import kafka
from contract.messages import Item, User, decoder
from contract.settings import Settings
from trainer.state import State

RECORDS_AT_ONCE = 5_000
_item, _user = decoder(Item), decoder(User)


class Follower:
    """Keeps a state's features as the two compacted topics have them."""

    def __init__(
        self, settings: Settings, state: State, counts: dict[str, int], offsets: dict[str, int] | None = None
    ) -> None:
        """With `offsets`, see `positions`, the state is what the topics made of it up to there."""
        self.state, self.whole = state, offsets is None
        self.catalogue, self.profiles = settings.names.topic("catalogue"), settings.names.topic("profiles")
        self.consumer = kafka.consumer(settings.kafka, settings.names.group("trainer-features"))
        at = offsets or {}
        topics = (self.catalogue, self.profiles)
        partitions = [TopicPartition(t, p, at.get(f"{t}/{p}", 0)) for t in topics for p in range(counts[t])]
        self.partitions = partitions
        self.unread = {(tp.topic, tp.partition) for tp in partitions}  # not yet read to an end
        self.consumer.assign(partitions)
        self.seen: dict[str, set[str]] = {self.catalogue: set(), self.profiles: set()}

    def start(self, stop: threading.Event) -> bool:
        """Read both topics to their ends; read whole, forget what the state has and they do not. False: stopped."""
        while self.unread:
            if stop.is_set():
                return False
            self.poll(0.2)
        if self.whole:
            self._forget_unseen()
        self.seen = {}
        return True

    def _forget_unseen(self) -> None:
        state = self.state
        listed = {t for t, row in state.items.row_of.items() if state.flags["items.listed"][row]}
        state.forget_items(sorted(listed - self.seen[self.catalogue]))
        profiled = {t for t, row in state.users.row_of.items() if state.flags["users.profiled"][row]}
        for user_id in sorted((profiled | state.profiles.row_of.keys()) - self.seen[self.profiles]):
            state.forget_user(user_id)

    def positions(self) -> dict[str, int]:
        """How far both topics are read, by "topic/partition"."""
        begun = {f"{tp.topic}/{tp.partition}": max(tp.offset, 0) for tp in self.partitions}
        found = {f"{tp.topic}/{tp.partition}": tp.offset for tp in self.consumer.position(self.partitions)}
        return {at: offset if offset >= 0 else begun[at] for at, offset in found.items()}

    def poll(self, timeout_s: float = 0.0) -> int:
        """Take what is new; give the number of records."""
        taken = 0
        deleted: list[str] = []
        for message in self.consumer.consume(RECORDS_AT_ONCE, timeout_s):
            error = message.error()
            if error is None:
                key, topic = message.key(), str(message.topic())
                text = key.decode() if isinstance(key, bytes) else str(key)
                self._take(topic, text, message.value(), deleted)
                taken += 1
            elif error.code() == kafka.END_OF_PARTITION:
                self.unread.discard((str(message.topic()), int(message.partition() or 0)))
            elif not error.retriable():
                raise KafkaException(error)
        if deleted:
            self.state.forget_items(deleted)
        return taken

    def _take(self, topic: str, text: str, value: str | bytes | None, deleted: list[str]) -> None:
        state, seen = self.state, self.seen.get(topic)
        if seen is not None:
            seen.add(text) if value else seen.discard(text)
        if topic == self.catalogue:
            if value:
                if text in deleted:
                    state.forget_items(deleted)
                    deleted.clear()
                item = _item.decode(cast("bytes", value))
                state.catalogue(item.item_id, item.features)
            else:
                deleted.append(text)
        elif value:
            user = _user.decode(cast("bytes", value))
            state.profile(user.user_id, user.features)
        else:
            state.forget_user(text)

    def close(self) -> None:
        """Leave."""
        self.consumer.close()
