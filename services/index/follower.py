"""Keeps a server's partitions in step with Redis: which it owns, what their logs say, what must be loaded.

Two loops and one task per partition that must be loaded. While Redis is away everything keeps answering from memory,
and the loops try again until it is back.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import Executor
from typing import Final

import structlog
from redis.asyncio import Redis

from services.index.collection import CollectionIndex, HeldPartition, LogRead
from services.index.pause import Pause, pause_unless
from services.index.store.catalog import Catalog, CollectionRecord
from services.index.store.load import load_partition
from services.index.store.placement import PlacementTable, read_placement
from services.index.store.tail import ReloadReason, TailBatch, read_tails
from services.runtime import metrics
from services.runtime.errors import CsrError, StoreUnavailable, WrongState
from services.runtime.settings import IndexSettings

log = structlog.get_logger()

REFRESH_SECONDS: Final = 1.0
"""Age at which placement and catalogue are read again; a search for something unknown has them read at once."""
BACKOFF_SECONDS: Final = (0.1, 2.0)
"""First and longest pause after a failure; each is twice the one before, and nobody who waits cuts it short."""
LOADS_AT_A_TIME: Final = 4
ENTRIES_PER_READ: Final = 1_024
"""Entries that one read of all logs asks for, so that parsing them never holds up requests for long."""
ENTRIES_PER_LOG_MIN: Final = 64

_ANOTHER_LOG: Final = frozenset({ReloadReason.REWOUND, ReloadReason.CHAIN})
"""The log is not the one that was followed: its positions mean something else now, so nothing is answered at them."""
_REFUSED: Final = frozenset({ReloadReason.CORRUPT, ReloadReason.CHAIN})
"""An entry was read that must never be served."""


class Follower:
    """Follows placement, catalogue and logs.

    Attributes:
        collections: The collections of which this server holds partitions, by id.
        term: Term of the placement table that is followed; 0 while there is none.
        caught_up: Set once every partition that was owned at the start has been loaded up to its head, or has
            turned out to be unreadable.
    """

    def __init__(self, redis: Redis, settings: IndexSettings, executor: Executor) -> None:
        self.collections: dict[str, CollectionIndex] = {}
        self.term = 0
        self.caught_up = asyncio.Event()
        self._redis = redis
        self._catalog = Catalog(redis)
        self._name = settings.name
        self._poll = Pause(settings.poll_min_ms / 1_000, settings.poll_max_ms / 1_000)
        self._executor = executor
        self._table: PlacementTable | None = None
        self._placed = True
        self._opened = False
        self._loads: dict[HeldPartition, asyncio.Task[None]] = {}
        self._load_slots = asyncio.Semaphore(LOADS_AT_A_TIME)
        self._hurry = asyncio.Event()
        self._refresh = asyncio.Event()
        self._refreshed = asyncio.Event()
        self._reads_begun = self._reads_done = 0

    async def run(self) -> None:
        """Follow until cancelled."""
        try:
            async with asyncio.TaskGroup() as loops:
                loops.create_task(self._follow_placement())
                loops.create_task(self._follow_logs())
        finally:
            self._cancel_loads(list(self._loads))

    def hurry(self) -> None:
        """Read the logs now instead of after the pause: somebody waits for a position."""
        self._hurry.set()

    async def refresh(self) -> None:
        """Read placement and catalogue anew; returns when that is done, also when it failed."""
        wanted = self._reads_begun + 1  # one that is under way may have read too early
        self._refresh.set()
        while self._reads_done < wanted:
            await self._refreshed.wait()

    # Placement and catalogue

    async def _follow_placement(self) -> None:
        backoff = Pause(*BACKOFF_SECONDS)
        while True:
            self._refresh.clear()
            self._reads_begun += 1
            try:
                await self._reconcile()
            except Exception as error:
                _report("placement and catalogue not read", error)
                self._announce_refreshed()
                await asyncio.sleep(backoff.next())
            else:
                self._announce_refreshed()
                backoff.reset()
                await pause_unless(self._refresh, REFRESH_SECONDS)

    def _announce_refreshed(self) -> None:
        self._reads_done = self._reads_begun
        self._refreshed.set()
        self._refreshed = asyncio.Event()

    async def _reconcile(self) -> None:
        """Open, change and drop collections so that they are what placement and catalogue say."""
        table = await self._read_table()
        if table is not None:
            await self._follow_table(table)
        self._opened = True
        self._notice_caught_up()

    async def _follow_table(self, table: PlacementTable) -> None:
        listing = await self._catalog.listing()
        records = {record.collection_id: record for record in listing.records}
        for collection_id in self.collections.keys() - records.keys():
            if self.collections[collection_id].record.name in listing.unreadable:
                continue  # it is still there, and what is known of it goes on being served
            dropped = self.collections.pop(collection_id)
            self._cancel_loads(dropped.held.values())
            dropped.close()
            log.info("collection dropped", collection=dropped.record.name, collection_id=collection_id)
        for record in records.values():
            await self._update(record, table)
        self._table, self.term = table, table.term

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

    async def _update(self, record: CollectionRecord, table: PlacementTable) -> None:
        collection = self.collections.get(record.collection_id)
        if collection is not None and collection.record == record and table == self._table:
            return
        owned = frozenset(
            partition
            for partition in range(record.partitions)
            if any(server.name == self._name for server in table.owners(record.collection_id, partition))
        )
        if collection is None:
            collection = CollectionIndex(record, self._executor)
            log.info("collection opened", collection=record.name, collection_id=record.collection_id)
        self._cancel_loads(held for partition, held in collection.held.items() if partition not in owned)
        await collection.update(record, owned)
        self.collections[record.collection_id] = collection
        self._start_loads(collection)

    def _notice_caught_up(self) -> None:
        held = (held for collection in self.collections.values() for held in collection.held.values())
        if self._opened and all(partition.settled for partition in held):
            self.caught_up.set()

    # Logs

    async def _follow_logs(self) -> None:
        backoff = Pause(*BACKOFF_SECONDS)
        while True:
            self._hurry.clear()
            try:
                moved = await self._read_logs()
            except Exception as error:
                _report("logs not read", error)
                await asyncio.sleep(backoff.next())
            else:
                backoff.reset()
                if moved:
                    self._poll.reset()
                await pause_unless(self._hurry, self._poll.next())

    async def _read_logs(self) -> bool:
        """Read on in all logs that can be followed; return whether anything was new."""
        following = [
            (collection, held)
            for collection in self.collections.values()
            for held in collection.held.values()
            if not held.stale
        ]
        if not following:
            return False
        starts = [held.tail for _, held in following]
        entries_max = max(ENTRIES_PER_LOG_MIN, ENTRIES_PER_READ // len(starts))
        batches = await read_tails(self._redis, starts, entries_max)
        reads: defaultdict[CollectionIndex, list[LogRead]] = defaultdict(list)
        for (collection, held), start, batch in zip(following, starts, batches, strict=True):
            held.head_lsn = batch.head_lsn
            if batch.entries:
                reads[collection].append((start, batch))
        for collection, found in reads.items():
            await self._apply(collection, found)
        for (collection, _), batch in zip(following, batches, strict=True):
            if batch.reload is not None:
                await self._lose_track(collection, batch, batch.reload)
        return bool(reads)

    async def _apply(self, collection: CollectionIndex, reads: list[LogRead]) -> None:
        try:
            await collection.follow(reads)
        except CsrError as error:
            metrics.counter(metrics.INDEX_REFUSED_ENTRIES).inc()
            _report("entries refused", error, collection=collection.record.name)
            self._start_loads(collection)
        else:
            metrics.counter(metrics.INDEX_ENTRIES_APPLIED).inc(sum(len(batch.entries) for _, batch in reads))

    async def _lose_track(self, collection: CollectionIndex, batch: TailBatch, reason: ReloadReason) -> None:
        """Have a partition loaded whose log cannot be followed. Where the log is still the same, the partition goes
        on answering at the position that it has reached."""
        partition = batch.tail.partition
        log.warning(
            "log cannot be followed",
            collection=collection.record.name,
            partition=partition,
            lsn=batch.tail.lsn,
            head_lsn=batch.head_lsn,
            reason=reason,
        )
        if reason in _REFUSED:
            metrics.counter(metrics.INDEX_REFUSED_ENTRIES).inc()
        if reason in _ANOTHER_LOG:
            await collection.withdraw([partition])
        elif partition in collection.held:
            collection.held[partition].stale = True
        self._start_loads(collection)

    # Loads

    def _start_loads(self, collection: CollectionIndex) -> None:
        for partition, held in collection.held.items():
            if held.stale and held not in self._loads:
                self._loads[held] = asyncio.create_task(self._load(collection, partition, held))

    def _cancel_loads(self, released: Iterable[HeldPartition]) -> None:
        for held in released:
            if held in self._loads:
                self._loads[held].cancel()

    async def _load(self, collection: CollectionIndex, partition: int, held: HeldPartition) -> None:
        """Load a partition, however often it takes."""
        backoff = Pause(*BACKOFF_SECONDS)
        try:
            while held.stale:
                try:
                    async with self._load_slots:
                        loaded = await load_partition(
                            self._redis, collection.record.collection_id, partition, self._name
                        )
                        await collection.load(partition, loaded)
                except Exception as error:
                    _report("partition not loaded", error, collection=collection.record.name, partition=partition)
                    # Waiting helps against an absent Redis only; a server must not stay out for one bad partition.
                    held.settled = held.settled or not isinstance(error, StoreUnavailable)
                    held.problem = str(error)
                    self._notice_caught_up()
                    await asyncio.sleep(backoff.next())
                else:
                    metrics.counter(metrics.INDEX_RELOADS).inc()
                    self._notice_caught_up()
        finally:
            del self._loads[held]


def _report(event: str, error: Exception, **context: object) -> None:
    """Log a failure that will be tried again; anything but a domain error is a bug and gets its traceback."""
    if isinstance(error, CsrError):
        log.warning(event, error=str(error), **context)
    else:
        log.error(event, exc_info=error, **context)
