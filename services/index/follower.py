"""Keeps a server's partitions in step with Redis: which it owns, what their logs say, what must be loaded.

While Redis is away everything keeps answering from memory, and all loops try again until it is back.
"""

import asyncio
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor
from typing import Final

from redis.asyncio import Redis

from services.index.collection import CollectionIndex
from services.index.grown import GrownLogs
from services.index.held import HeldPartition
from services.index.loads import Loader
from services.index.logs import LogFollower
from services.index.memory import MemoryGuard
from services.index.ownership import Ownership
from services.index.snapshots import Snapshots
from services.runtime.settings import IndexSettings

_START_SECONDS: Final = 0.02
"""Pause between two looks whether a server that starts has everything."""


class Follower:
    """Follows placement, catalogue and logs.

    Attributes:
        collections: The collections of which this server holds partitions, by id.
        caught_up: Set once every partition that was owned at the start has come up to the head of its log, or has
            turned out to be unreadable.
    """

    def __init__(
        self, redis: Redis, settings: IndexSettings, executor: Executor, memory: MemoryGuard, snapshots: Snapshots
    ) -> None:
        self.collections: dict[str, CollectionIndex] = {}
        self.caught_up = asyncio.Event()
        self._grown = GrownLogs()
        loader = self._loader = Loader(redis, settings.name, memory, self._grown)
        self._logs = LogFollower(redis, self.collections, self._grown, loader, memory, settings)
        self._ownership = Ownership(redis, settings.name, self.collections, executor, snapshots, self._grown, loader)

    @property
    def term(self) -> int:
        """Term of the placement table that is followed; 0 while there is none."""
        return self._ownership.term

    async def run(self) -> None:
        """Follow until cancelled."""
        async with asyncio.TaskGroup() as loops:
            loops.create_task(self._ownership.run())
            loops.create_task(self._loader.run())
            loops.create_task(self._logs.run())
            loops.create_task(self._notice_caught_up())

    def hurry(self, collection: CollectionIndex, partitions: Iterable[int]) -> None:
        """Read these logs now: somebody waits for a position."""
        self._grown.add((collection.record.collection_id, partition) for partition in partitions)

    async def refresh(self) -> None:
        """Read placement and catalogue anew; returns when that is done, also when it failed."""
        await self._ownership.refresh()

    def complete_until(self, held: HeldPartition) -> float:
        """Return a time, as time.monotonic tells it: what was acknowledged before it is visible in the partition."""
        return self._logs.complete_until if held.behind_since is None else held.behind_since

    @property
    def held(self) -> Iterator[HeldPartition]:
        """All partitions of all collections."""
        return (held for collection in self.collections.values() for held in collection.held.values())

    async def _notice_caught_up(self) -> None:
        while not (self._ownership.known and all(held.settled for held in self.held)):
            await asyncio.sleep(_START_SECONDS)
        self.caught_up.set()
