"""Loads partitions whose logs cannot be followed: those that are new, and those that lost their place."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from redis.asyncio import Redis

from services.index.collection import CollectionIndex
from services.index.failures import BACKOFF_SECONDS, report
from services.index.grown import GrownLogs
from services.index.held import HeldPartition
from services.index.memory import MemoryGuard
from services.index.pause import Pause
from services.index.store.load import PartitionLoad, load_partition, load_small_partitions
from services.runtime import metrics
from services.runtime.errors import StoreUnavailable

LOADS_AT_A_TIME: Final = 4
_FULL_SECONDS: Final = 1.0
"""Pause of a load while there is no memory for it."""


class Loader:
    """Loads partitions, however often it takes: small ones many at a time, the others one by one.

    Args:
        redis: The store.
        reader: Name of this server; the store keeps what it still has to read under it.
        memory: While it is full, no load begins.
        grown: Told of what was loaded: its log goes on meanwhile.
    """

    def __init__(self, redis: Redis, reader: str, memory: MemoryGuard, grown: GrownLogs) -> None:
        self._redis = redis
        self._reader = reader
        self._memory = memory
        self._grown = grown
        self._slots = asyncio.Semaphore(LOADS_AT_A_TIME)
        self._waiting: dict[HeldPartition, CollectionIndex] = {}
        self._begin = asyncio.Event()
        self._tasks: dict[HeldPartition, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Load until cancelled."""
        try:
            while True:
                await self._begin.wait()
                self._begin.clear()
                waiting = {held: collection for held, collection in self._waiting.items() if _wanted(collection, held)}
                self._waiting = {}
                if not self._memory.full():
                    await self._load_small(waiting)
                for held, collection in waiting.items():
                    if _wanted(collection, held) and held not in self._tasks:
                        self._tasks[held] = asyncio.create_task(self._load(collection, held))
        finally:
            self.cancel(list(self._tasks))

    def start(self, collection: CollectionIndex) -> None:
        """Load the stale partitions of a collection."""
        stale = [held for held in collection.held.values() if held.stale and held not in self._tasks]
        self._waiting.update(dict.fromkeys(stale, collection))
        self._begin.set()

    def cancel(self, released: Iterable[HeldPartition]) -> None:
        """Stop loading partitions that are no longer held."""
        for held in released:
            self._waiting.pop(held, None)
            if held in self._tasks:
                self._tasks[held].cancel()

    async def _load_small(self, waiting: Mapping[HeldPartition, CollectionIndex]) -> None:
        """Load what can be loaded quickly; all that cannot, for whatever reason, is left."""
        begun = time.monotonic()
        places = [(collection.record.collection_id, held.partition) for held, collection in waiting.items()]
        try:
            loaded = await load_small_partitions(self._redis, places)
            found: defaultdict[CollectionIndex, list[PartitionLoad]] = defaultdict(list)
            for place, collection in zip(places, waiting.values(), strict=True):
                if place in loaded:
                    found[collection].append(loaded[place])
            for collection, loads in found.items():
                await self._take(collection, loads, begun)
        except Exception as error:
            report("partitions not loaded at once", error)

    async def _load(self, collection: CollectionIndex, held: HeldPartition) -> None:
        backoff = Pause(*BACKOFF_SECONDS)
        try:
            while _wanted(collection, held):
                try:
                    await self._wait_for_memory(held)
                    async with self._slots:
                        begun = time.monotonic()
                        load = await load_partition(
                            self._redis, collection.record.collection_id, held.partition, self._reader
                        )
                        await self._take(collection, [load], begun)
                except Exception as error:
                    report("partition not loaded", error, collection=collection.record.name, partition=held.partition)
                    # Waiting helps against an absent Redis only; a server must not stay out for one bad partition.
                    held.settled = held.settled or not isinstance(error, StoreUnavailable)
                    held.problem = str(error)
                    await asyncio.sleep(backoff.next())
        finally:
            del self._tasks[held]

    async def _wait_for_memory(self, held: HeldPartition) -> None:
        while self._memory.full():
            held.settled, held.problem = True, self._memory.problem  # serve what there is room for
            await asyncio.sleep(_FULL_SECONDS)

    async def _take(self, collection: CollectionIndex, loads: Sequence[PartitionLoad], begun: float) -> None:
        await collection.load(loads)
        for load in loads:
            held = collection.held.get(load.tail.partition)
            if held is not None:
                held.behind_since = begun
        metrics.counter(metrics.INDEX_RELOADS).inc(len(loads))
        self._grown.add((collection.record.collection_id, load.tail.partition) for load in loads)


def _wanted(collection: CollectionIndex, held: HeldPartition) -> bool:
    """Return whether a partition is still to be loaded, and was not released since, perhaps with its collection."""
    return held.stale and not collection.closed and collection.held.get(held.partition) is held
