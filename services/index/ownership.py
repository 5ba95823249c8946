"""Which collections and partitions this server holds: follows placement and catalogue."""

import asyncio
import time
from concurrent.futures import Executor
from typing import Final

import structlog
from redis.asyncio import Redis

from services.index.collection import CollectionIndex
from services.index.failures import BACKOFF_SECONDS, report
from services.index.grown import GrownLogs
from services.index.loads import Loader
from services.index.pause import Pause, pause_unless
from services.index.snapshots import Snapshots
from services.index.store.catalog import Catalog, CollectionRecord
from services.index.store.placement import PlacementTable, read_placement
from services.runtime.errors import WrongState

log = structlog.get_logger()

REFRESH_SECONDS: Final = 1.0
"""Age at which placement and catalogue are read again; a search for something unknown has them read at once."""
_READ_ALL_SECONDS: Final = 60.0
"""Age at which the catalogue is read again even if its revision is the same."""


class Ownership:
    """Opens, changes and drops collections so that they are what placement and catalogue say.

    Args:
        redis: The store.
        name: Of this server in the placement table.
        collections: What this server holds, by id; changed by nobody else.
        executor: Applies changes to collections.
        snapshots: Where a collection begins that is opened.
        grown: Told of what a snapshot had, whose log has gone on.
        loader: Loads what no snapshot had.

    Attributes:
        term: Term of the placement table that is followed; 0 while there is none.
        known: Whether placement and catalogue were read once.
    """

    def __init__(
        self,
        redis: Redis,
        name: str,
        collections: dict[str, CollectionIndex],
        executor: Executor,
        snapshots: Snapshots,
        grown: GrownLogs,
        loader: Loader,
    ) -> None:
        self.term = 0
        self.known = False
        self._redis = redis
        self._catalog = Catalog(redis)
        self._name = name
        self._collections = collections
        self._executor = executor
        self._snapshots = snapshots
        self._grown = grown
        self._loader = loader
        self._table: PlacementTable | None = None
        self._revision = -1
        self._read_all = 0.0
        self._placed = True
        self._refresh = asyncio.Event()
        self._refreshed = asyncio.Event()
        self._reads_begun = self._reads_done = 0

    async def run(self) -> None:
        """Follow until cancelled."""
        backoff = Pause(*BACKOFF_SECONDS)
        while True:
            self._refresh.clear()
            self._reads_begun += 1
            try:
                await self._reconcile()
            except Exception as error:
                report("placement and catalogue not read", error)
                self._announce_refreshed()
                await asyncio.sleep(backoff.next())
            else:
                self._announce_refreshed()
                backoff.reset()
                await pause_unless(self._refresh, REFRESH_SECONDS)

    async def refresh(self) -> None:
        """Read placement and catalogue anew; returns when that is done, also when it failed."""
        wanted = self._reads_begun + 1  # one that is under way may have read too early
        self._refresh.set()
        while self._reads_done < wanted:
            await self._refreshed.wait()

    def _announce_refreshed(self) -> None:
        self._reads_done = self._reads_begun
        self._refreshed.set()
        self._refreshed = asyncio.Event()

    async def _reconcile(self) -> None:
        table = await self._read_table()
        if table is not None:
            revision = await self._catalog.revision()
            old = time.monotonic() - self._read_all > _READ_ALL_SECONDS
            if old or revision != self._revision or table != self._table:
                complete = await self._follow(table)
                self._table = table if complete else None  # None: all is gone through again the next time
                self.term, self._revision = table.term, revision
                self._read_all = time.monotonic()
        self.known = True

    async def _read_table(self) -> PlacementTable | None:
        try:
            table = await read_placement(self._redis)
        except WrongState as error:
            # A Redis that lost everything looks like this, too: then this memory is all that is left, and stays.
            if self._placed:
                log.warning("no placement in force", reason=str(error))
            self._placed = False
            return None
        self._placed = True
        return table

    async def _follow(self, table: PlacementTable) -> bool:
        """Bring all collections to what table and catalogue say; return whether that worked with every one."""
        listing = await self._catalog.listing()
        records = {record.collection_id: record for record in listing.records}
        for collection_id in self._collections.keys() - records.keys():
            if self._collections[collection_id].record.name in listing.unreadable:
                continue  # it is still there, and what is known of it goes on being served
            dropped = self._collections.pop(collection_id)
            self._loader.cancel(dropped.held.values())
            dropped.close()
            log.info("collection dropped", collection=dropped.record.name, collection_id=collection_id)
        complete = True
        for record in records.values():
            try:
                await self._update(record, table)
            except Exception as error:  # one bad collection must not keep the others out
                complete = False
                report("collection not brought up to date", error, collection=record.name)
        return complete

    async def _update(self, record: CollectionRecord, table: PlacementTable) -> None:
        collection = self._collections.get(record.collection_id)
        if collection is not None and collection.record == record and table == self._table:
            return
        owned = frozenset(
            partition
            for partition in range(record.partitions)
            if any(server.name == self._name for server in table.owners(record.collection_id, partition))
        )
        if collection is None:
            collection = CollectionIndex(record, self._executor)
            await collection.update(record, owned)
            restored = await self._snapshots.restored(record)
            if restored is not None:
                await collection.restore(restored)
                self._grown.add((record.collection_id, partition) for partition in owned)
            log.info("collection opened", collection=record.name, collection_id=record.collection_id)
        else:
            self._loader.cancel(held for partition, held in collection.held.items() if partition not in owned)
            await collection.update(record, owned)
        self._collections[record.collection_id] = collection
        self._loader.start(collection)
