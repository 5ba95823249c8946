"""When snapshots are taken, restored and thrown away. They shorten a start; nothing is lost without them."""

import asyncio
import shutil
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import structlog

from services.index import snapshot_files
from services.index.collection import CollectionIndex, Moment, Restored
from services.index.partition import PartitionState
from services.index.snapshot_files import UnusableSnapshot
from services.index.store.catalog import CollectionRecord
from services.runtime import metrics
from services.runtime.settings import IndexSettings

log = structlog.get_logger()

_LOOK_SECONDS: Final = 1.0
"""Longest pause between two looks at what has changed."""


class Snapshots:
    """The snapshots of one server; without a folder it has none and takes none.

    Args:
        settings: Folder, pauses, and name: servers that share a folder have one each in it.
        age_max: In seconds; older snapshots are never used: deletions are remembered for so long.
    """

    def __init__(self, settings: IndexSettings, age_max: float) -> None:
        root = settings.snapshot_dir
        self._root = None if root is None else root / settings.name
        self._pause = settings.snapshot_seconds
        self._age_max = age_max
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="snapshot")
        self._taken: dict[str, Mapping[int, PartitionState]] = {}
        self._due: dict[str, float] = {}

    async def restored(self, record: CollectionRecord) -> Restored | None:
        """Return the newest snapshot of a collection that can be used; None when there is none."""
        root = self._root
        if root is None:
            return None
        started = time.monotonic()
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._thread, self._newest, root / record.collection_id, record)
        if found is not None:
            self._taken[record.collection_id] = found.states
            metrics.counter(metrics.INDEX_SNAPSHOTS_RESTORED).inc()
            log.info("snapshot restored", collection=record.name, seconds=round(time.monotonic() - started, 3))
        return found

    async def run(self, collections: Mapping[str, CollectionIndex]) -> None:
        """Take snapshots of what changes until cancelled."""
        while self._root is not None:
            await asyncio.sleep(min(_LOOK_SECONDS, self._pause))
            for collection_id, collection in list(collections.items()):
                if time.monotonic() >= self._due.setdefault(collection_id, time.monotonic() + self._pause):
                    await self.take(collection)
            for collection_id in self._due.keys() - collections.keys():
                self._due.pop(collection_id)
                self._taken.pop(collection_id, None)
            await asyncio.get_running_loop().run_in_executor(self._thread, self._forget, self._root, set(collections))

    async def take_all(self, collections: Mapping[str, CollectionIndex]) -> None:
        """Take a snapshot of every collection that has changed since its last one."""
        for collection in list(collections.values()):
            await self.take(collection)

    async def take(self, collection: CollectionIndex) -> None:
        """Take a snapshot of a collection, unless it is as it was the last time; a failure is logged and counted."""
        root, collection_id = self._root, collection.record.collection_id
        if root is None:
            return
        moment, created = await collection.moment(), time.time()
        self._due[collection_id] = time.monotonic() + self._pause
        if moment.states == self._taken.get(collection_id, {}):
            return
        started = time.monotonic()
        try:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._thread, _save, root / collection_id, moment, created)
        except Exception as error:  # the next one may succeed; a server without snapshots only starts more slowly
            metrics.counter(metrics.INDEX_SNAPSHOT_FAILURES).inc()
            log.error("snapshot failed", collection=collection.record.name, exc_info=error)
        else:
            self._taken[collection_id] = moment.states
            metrics.counter(metrics.INDEX_SNAPSHOTS_TAKEN).inc()
            seconds = round(time.monotonic() - started, 3)
            log.info("snapshot taken", collection=collection.record.name, seconds=seconds)

    async def latest(self, record: CollectionRecord) -> Restored | None:
        """Return the newest snapshot of a collection, for an audit; None when there is none.

        Raises:
            UnusableSnapshot: it cannot be used, and why.
        """
        root = self._root
        if root is None:
            return None
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, _latest, root / record.collection_id, record)

    def _newest(self, folder: Path, record: CollectionRecord) -> Restored | None:
        for number in snapshot_files.numbers(folder):
            try:
                manifest = snapshot_files.read_manifest(folder, number)
                if time.time() - manifest.created > self._age_max:
                    raise UnusableSnapshot(f"snapshot {number} is older than log.tombstone_seconds")
                return snapshot_files.load(folder, number, manifest, record)
            except UnusableSnapshot as reason:
                metrics.counter(metrics.INDEX_SNAPSHOTS_REFUSED).inc()
                log.warning("snapshot refused", collection=record.name, reason=str(reason))
        return None

    def _forget(self, root: Path, held: set[str]) -> None:
        """Remove what no use can be made of: snapshots of collections that are gone, once they are old.

        Not before, because a Redis that lost its catalogue looks like one whose collections were deleted.
        """
        for folder in root.glob("*"):
            if folder.name not in held and time.time() - folder.stat().st_mtime > self._age_max:
                shutil.rmtree(folder, ignore_errors=True)


def _save(folder: Path, moment: Moment, created: float) -> None:
    snapshot_files.save(folder, moment, created)
    snapshot_files.tidy(folder)


def _latest(folder: Path, record: CollectionRecord) -> Restored | None:
    found = snapshot_files.numbers(folder)
    if not found:
        return None
    return snapshot_files.load(folder, found[0], snapshot_files.read_manifest(folder, found[0]), record)
