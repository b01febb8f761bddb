"""The publisher's model at hand, and the index files that it writes from it.

    snapshot of a newer version  --> built, written, checked --> ready
    delta, later snapshot        --> the model goes forward; written anew at a snapshot or when much has changed

A small index is built at once; one above `exact_max_items` beside the loop, while rows go on to Redis and updates for
the model wait in a backlog.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from contract import log
from contract.updates import Update
from publisher import index_files, model
from publisher.model import Model


class Indexer:
    """Follows updates and keeps index files of every version's newest state."""

    def __init__(self, files: Path, namespace: str, exact_max_items: int, rebuild_after_items: int) -> None:
        self.model: Model | None = None
        self.ready: set[int] = set()  # versions that have index files
        self.building_from: int | None = None  # offset of the update whose index is being built
        self._files, self._namespace = files, namespace
        self._exact_max_items, self._rebuild_after_items = exact_max_items, rebuild_after_items
        self._unsaved = 0  # items changed since the newest index files
        self._builder = ThreadPoolExecutor(1, "index")
        self._building: Future[Model] | None = None
        self._backlog: list[tuple[Update, int, int]] = []
        self._cleared = False

    def load(self) -> None:
        """Take up the newest index files that read back whole; what a build left half-done is removed."""
        self.wait()
        if not self._cleared:
            index_files.clear_interrupted(self._files)
            self._cleared = True
        if self.model is None:
            self.model, refused = index_files.newest(self._files, self._namespace)
            for reason in refused:
                log.get().error("index_refused", reason=reason)
        self.ready = {version for version, _ in index_files.written(self._files)}

    def take(self, update: Update, begun: int, offset: int) -> None:
        """Bring the model forward by an update that lies from `begun` to before `offset`; others are passed over."""
        if self._building is not None:
            self._backlog.append((update, begun, offset))
            return
        limit, held = self._exact_max_items, self.model
        if update.kind == "snapshot" and (held is None or update.version > held.version):
            self._build(lambda: model.from_snapshot(update, offset, limit), begun, update.manifest.items)
        elif held is not None and model.follows(held, update):
            ahead = self.model = model.advanced(held, update, offset, limit)
            self._unsaved += sum(len(s.ids) + len(s.deleted) for s in update.items)
            if update.kind == "snapshot" or self._unsaved > self._rebuild_after_items:
                self._build(lambda: model.compacted(ahead, limit), begun, len(ahead.catalogue))

    def turn(self) -> None:
        """Take what was built; raises what the build raised, and is then as if it had not been begun."""
        if self._building is None or not self._building.done():
            return
        done, self._building, self.building_from = self._building, None, None
        waiting, self._backlog = self._backlog, []
        self.model = built = done.result()
        self.ready.add(built.version)
        index_files.forget(self._files, self.ready)
        items, exact = len(built.catalogue), built.catalogue.index.exact
        log.get().info("index_built", version=built.version, sequence=built.sequence, items=items, exact=exact)
        for update in waiting:
            self.take(*update)

    def wait(self) -> None:
        """Wait for a build that is under way."""
        if self._building is not None:
            self._building.exception()
            self.turn()

    def forget(self, versions: list[int]) -> None:
        """Remove versions' index files."""
        self.ready -= set(versions)
        index_files.forget(self._files, self.ready)

    def close(self) -> None:
        """Wait for a build that is under way, and end."""
        self._builder.shutdown(wait=True)

    def _build(self, make: Callable[[], Model], begun: int, items: int) -> None:
        def make_and_write() -> Model:
            built = make()
            index_files.write(self._files, self._namespace, built)
            return built

        self._unsaved, self.building_from = 0, begun
        self._building = self._builder.submit(make_and_write)
        if items <= self._exact_max_items:
            self.wait()
