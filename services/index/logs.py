"""Follows the logs of all partitions: those that are announced to have grown at once, the others now and then.

Announcements only say where to look. While they cannot be received, all logs are polled.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Final, TypeAlias

import structlog
from redis.asyncio import Redis

from services.index.collection import CollectionIndex, LogRead
from services.index.failures import BACKOFF_SECONDS, report
from services.index.grown import GrownLogs, Place
from services.index.held import HeldPartition
from services.index.loads import Loader
from services.index.memory import MemoryGuard
from services.index.pause import Pause, pause_unless
from services.index.store.announcements import Announcements
from services.index.store.tail import ReloadReason, TailBatch, read_tails
from services.runtime import metrics
from services.runtime.settings import IndexSettings

log = structlog.get_logger()

PATROL_SECONDS: Final = 1.0
"""Every so often the next LOGS_PER_READ logs are read, announced or not: nobody announces that a log was restored."""
LISTEN_SECONDS: Final = 1.0
"""Longest wait for announcements."""
LOGS_PER_READ: Final = 256
"""Logs of one round trip; one that never grew costs 20 microseconds to look at."""
ENTRIES_PER_READ: Final = 1_024
"""Entries that one read of all logs asks for, so that parsing them never holds up requests for long."""
ENTRIES_PER_LOG_MIN: Final = 64
_FULL_SECONDS: Final = 0.5
"""Pause between two looks at the logs while there is no memory for what they say."""

_ANOTHER_LOG: Final = frozenset({ReloadReason.REWOUND, ReloadReason.CHAIN})
"""The log is not the one that was followed: its positions mean something else now, so nothing is answered at them."""
_REFUSED: Final = frozenset({ReloadReason.CORRUPT, ReloadReason.CHAIN})
"""An entry was read that must never be served."""

Followed: TypeAlias = tuple[CollectionIndex, HeldPartition]


class LogFollower:
    """Brings what the logs say into the collections.

    Args:
        redis: The store.
        collections: What this server holds, by id.
        grown: Logs to look at; this is its reader.
        loader: Loads what cannot be followed.
        memory: While it is full, nothing is applied.
        settings: Pauses between two reads while announcements cannot be received.

    Attributes:
        complete_until: Time, as time.monotonic tells it, such that every write acknowledged before is visible, but for
            partitions that say otherwise (HeldPartition.behind_since).
    """

    def __init__(
        self,
        redis: Redis,
        collections: Mapping[str, CollectionIndex],
        grown: GrownLogs,
        loader: Loader,
        memory: MemoryGuard,
        settings: IndexSettings,
    ) -> None:
        self.complete_until = time.monotonic()
        self._redis = redis
        self._collections = collections
        self._grown = grown
        self._loader = loader
        self._memory = memory
        self._announcements = Announcements(redis)
        self._poll = Pause(settings.poll_min_ms / 1_000, settings.poll_max_ms / 1_000)
        self._listening = False
        self._announced_until = self.complete_until
        self._patrol: list[Place] = []

    async def run(self) -> None:
        """Follow until cancelled."""
        async with asyncio.TaskGroup() as loops:
            loops.create_task(self._listen())
            loops.create_task(self._read_forever())

    async def _listen(self) -> None:
        backoff = Pause(*BACKOFF_SECONDS)
        while True:
            try:
                await self._announcements.open()
                self._listening = True
                self._note_all()  # what was written while nobody listened
                patrolled = time.monotonic()
                while True:
                    grown, until = await self._announcements.collect(LISTEN_SECONDS)
                    backoff.reset()
                    self._announced_until = until
                    self._grown.add(grown)
                    if time.monotonic() - patrolled > PATROL_SECONDS:
                        patrolled = time.monotonic()
                        self._grown.add(self._next_of_all())
            except Exception as error:
                self._listening = False
                self._grown.add(())
                report("announcements not received, all logs are polled", error)
                await asyncio.sleep(backoff.next())

    def _note_all(self) -> None:
        """Have all logs read: then everything is known that was acknowledged until now."""
        self._announced_until = time.monotonic()
        self._grown.add(self._all())

    def _all(self) -> list[Place]:
        return [(id, partition) for id, collection in self._collections.items() for partition in collection.held]

    def _next_of_all(self) -> list[Place]:
        """Return some of all logs, others every time until it was the turn of each."""
        if not self._patrol:
            self._patrol = self._all()
        some, self._patrol = self._patrol[:LOGS_PER_READ], self._patrol[LOGS_PER_READ:]
        return some

    async def _read_forever(self) -> None:
        backoff = Pause(*BACKOFF_SECONDS)
        while True:
            if not self._listening:
                self._note_all()
            grown, until = self._grown.take(), self._announced_until
            try:
                moved = await self._read(grown)
            except Exception as error:
                self._grown.put_back(grown)
                report("logs not read", error)
                await asyncio.sleep(backoff.next())
                continue
            backoff.reset()
            self.complete_until = until
            if moved:
                self._poll.reset()
            if self._memory.full():
                await asyncio.sleep(_FULL_SECONDS)
            elif not self._listening:
                await pause_unless(self._grown.bell, self._poll.next())
            elif not self._grown:
                await self._grown.bell.wait()

    async def _read(self, grown: Iterable[Place]) -> bool:
        """Read on in these logs as far as they can be followed; return whether anything was new."""
        followed = iter(self._followed(grown))
        moved = False
        while some := list(islice(followed, LOGS_PER_READ)):
            moved |= await self._read_some(some)
        return moved

    def _followed(self, grown: Iterable[Place]) -> list[Followed]:
        found = []
        for collection_id, partition in grown:
            collection = self._collections.get(collection_id)
            held = None if collection is None else collection.held.get(partition)
            if collection is not None and held is not None:
                if held.behind_since is None:
                    held.behind_since = self.complete_until
                if not held.stale:  # else a load brings what is new, and until then it is missing
                    found.append((collection, held))
        return found

    async def _read_some(self, followed: list[Followed]) -> bool:
        starts = [held.tail for _, held in followed]
        full = self._memory.full()
        entries_max = 1 if full else max(ENTRIES_PER_LOG_MIN, ENTRIES_PER_READ // len(starts))
        batches = await read_tails(self._redis, starts, entries_max)
        reads: defaultdict[CollectionIndex, list[LogRead]] = defaultdict(list)
        for (collection, held), start, batch in zip(followed, starts, batches, strict=True):
            held.head_lsn = batch.head_lsn
            if full and batch.entries:  # what the heads are is all that is wanted; serve what there is room for
                if not held.settled:
                    held.settled, held.problem = True, self._memory.problem
            # Level for the first time: nothing is new, but it is ready.
            elif batch.entries or not (collection.ready(held.partition) or batch.reload or batch.closed):
                reads[collection].append((start, batch))
        for collection, found in reads.items():
            await self._apply(collection, found)
        for (collection, held), batch in zip(followed, batches, strict=True):
            if batch.reload is not None:
                await self._lose_track(collection, batch, batch.reload)
            elif held.lag:
                self._grown.put_back([(batch.tail.collection_id, batch.tail.partition)])
            elif not held.stale:
                held.behind_since = None
        return any(batch.entries for batch in batches)

    async def _apply(self, collection: CollectionIndex, reads: list[LogRead]) -> None:
        try:
            await collection.follow(reads)
        except Exception as error:  # whatever it was, the partitions were withdrawn, and only a load brings them back
            metrics.counter(metrics.INDEX_REFUSED_ENTRIES).inc()
            report("entries refused", error, collection=collection.record.name)
            self._loader.start(collection)
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
        self._loader.start(collection)
