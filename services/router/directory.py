"""Which collections exist and which index server holds which partition: read ahead of requests, kept fresh.

Requests are answered from memory, so they do not wait for Redis and go on while it is down. What they see is at most
`refresh_seconds` old as long as Redis answers; a name that is not known yet is looked up at once.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, TypeVar

import structlog
from redis.asyncio import Redis

from services.index.store.catalog import Catalog, CollectionRecord
from services.index.store.functions import StorePolicy, ensure_functions
from services.index.store.placement import PlacementTable, read_placement
from services.index.store.reports import ServerReport, read_reports
from services.runtime.errors import (
    CsrError,
    FingerprintMismatch,
    InvalidRequest,
    InvalidVector,
    LimitExceeded,
    StoreUnavailable,
    UnknownCollection,
    WrongKind,
    WrongOwner,
    WrongState,
)

log = structlog.get_logger()

Answer = TypeVar("Answer")

_REFUSALS: Final = (InvalidRequest, InvalidVector, LimitExceeded, WrongKind, FingerprintMismatch)
"""What is wrong by a record that is outdated may be right by the new one."""
_CLEANING_SECONDS: Final = 60.0
"""Pause between two looks for deletions that were interrupted."""


class Directory:
    """Collections, placement and log positions, as last seen by this router.

    Call `refresh` once and then run `keep_fresh` in the background.
    """

    def __init__(self, redis: Redis, refresh_seconds: float) -> None:
        self.catalog = Catalog(redis)
        self._redis = redis
        self._refresh_seconds = refresh_seconds
        self._records: dict[str, CollectionRecord] = {}
        self._placement: PlacementTable | None = None
        self._policy: StorePolicy | None = None
        self._positions: dict[str, dict[int, int]] = {}
        self._deleted: set[str] = set()
        self._cleaned = 0.0
        self._catalog_revision = -1
        self._store_problem: StoreUnavailable | None = None
        self.reports: Mapping[str, ServerReport] = {}
        """What index servers last said of themselves, by name; a silent server is missing."""

    @property
    def policy(self) -> StorePolicy:
        """What an acknowledged write is worth.

        Raises:
            StoreUnavailable: Redis was not reached yet.
        """
        if self._policy is None:
            raise StoreUnavailable("Redis was not reached yet")
        return self._policy

    @property
    def placement(self) -> PlacementTable:
        """The placement table.

        Raises:
            StoreUnavailable: it was never read.
        """
        if self._placement is None:
            raise StoreUnavailable("the placement table was not read yet: Redis is down, or the stack never started")
        return self._placement

    def check_store(self) -> None:
        """Fail at once while Redis is known to be down, so that writes do not wait for what cannot happen.

        Raises:
            StoreUnavailable: it did not answer when this router last asked.
        """
        if self._store_problem is not None:
            raise StoreUnavailable(f"{self._store_problem}; nothing was written")

    async def collection(self, name: str) -> CollectionRecord:
        """Return the record of a collection.

        Raises:
            UnknownCollection: no collection has that name.
            StoreUnavailable: Redis does not answer and the name was not seen before.
        """
        record = self._records.get(name)
        if record is None:
            record = await self.catalog.get(name)
            if record.collection_id in self._deleted:
                raise UnknownCollection(f"collection {name!r} was deleted")
            self._records[name] = record
        return record

    async def current(self, name: str) -> CollectionRecord:
        """Return the record of a collection as the store has it now.

        Raises:
            UnknownCollection: no collection has that name.
            StoreUnavailable: Redis does not answer.
        """
        if await self.catalog.get(name) != self._records.get(name):
            await self.refresh()
        return await self.collection(name)

    async def answered(self, name: str, answer: Callable[[CollectionRecord], Awaitable[Answer]]) -> Answer:
        """Return the answer from a collection's record, or from its new one if the one in memory was outdated.

        Another router may have deleted the collection, or made a new one of that name, or placement may have changed.

        Raises:
            CsrError: as `collection`, and whatever `answer` raises from a record that is not outdated.
        """
        record = await self.collection(name)
        try:
            return await answer(record)
        except (WrongOwner, WrongState) as error:
            await self.refresh()
            fresh = await self.collection(name)
            if fresh == record and isinstance(error, WrongState):
                raise
            return await answer(fresh)
        except _REFUSALS as error:
            if self._store_problem is not None:
                raise
            try:
                fresh = await self.current(name)
            except StoreUnavailable:
                raise error from None
            if fresh == record:
                raise
            return await answer(fresh)

    def collections(self) -> list[CollectionRecord]:
        """Return all collections as last seen, by name ascending."""
        return [self._records[name] for name in sorted(self._records)]

    def forget(self, record: CollectionRecord) -> None:
        """Stop serving a collection that was deleted, even if a read of the catalogue under way still holds it."""
        self._deleted.add(record.collection_id)
        self._records.pop(record.name, None)

    def saw(self, collection_id: str, positions: Mapping[int, int]) -> None:
        """Remember log positions (by partition) that were acknowledged or answered from."""
        known = self._positions.setdefault(collection_id, {})
        for partition, lsn in positions.items():
            known[partition] = max(lsn, known.get(partition, 0))

    def highest_lsn(self, collection_id: str, partition: int) -> int:
        """Return the highest position seen of a partition: a log that ends before it lost acknowledged writes."""
        return self._positions.get(collection_id, {}).get(partition, 0)

    async def refresh(self) -> None:
        """Read everything again.

        Raises:
            CsrError: Redis does not answer, cannot be trusted, or holds no placement table; what was known stays.
        """
        try:
            await self._read()
        except CsrError as error:
            self._store_problem = error if isinstance(error, StoreUnavailable) else None
            raise
        self._store_problem = None

    async def _read(self) -> None:
        # Every time: the Redis that answers now may be another one than a moment ago.
        self._policy = await ensure_functions(self._redis)
        placement = await read_placement(self._redis)
        self.reports = await read_reports(self._redis, [server.name for server in placement.servers])
        self._placement = placement
        revision = await self.catalog.revision()  # before the list: what changes in between is read again
        if revision == self._catalog_revision:
            return
        listing = await self.catalog.listing()
        known = [record for name, record in self._records.items() if name in listing.unreadable]
        records = [*listing.records, *known]
        self._catalog_revision = revision
        listed = {record.collection_id for record in records}
        self._deleted &= listed
        self._records = {record.name: record for record in records if record.collection_id not in self._deleted}
        self._positions = {id: positions for id, positions in self._positions.items() if id in listed}

    async def keep_fresh(self, on_refreshed: Callable[[], Awaitable[None]]) -> None:
        """Refresh for ever; while that fails, what was known goes on being served.

        Args:
            on_refreshed: Called after every success.
        """
        failing = False
        while True:
            try:
                await self.refresh()
                await self._clean()
            except Exception as error:  # whatever it is, requests are still answered from memory
                if not failing:
                    unexpected = not isinstance(error, CsrError)
                    log.warning("store not readable, serving what is known", reason=str(error), exc_info=unexpected)
                failing = True
            else:
                if failing:
                    log.info("store readable again")
                failing = False
                await on_refreshed()
            await asyncio.sleep(self._refresh_seconds)

    async def _clean(self) -> None:
        if time.monotonic() - self._cleaned < _CLEANING_SECONDS:
            return
        self._cleaned = time.monotonic()
        removed = await self.catalog.resume_deletions()
        if removed:
            log.info("removed what interrupted deletions left", collections=removed)
