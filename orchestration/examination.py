"""Examines partitions: reads them in Redis, from the servers that own them and from snapshots, and compares."""

from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

import grpc
from redis.asyncio import Redis

from orchestration.doctor import IDS_MAX, Content, Finding, Held, difference, differing_ids, moved
from orchestration.held import held_by, listed_by
from services.index.store.catalog import CollectionRecord
from services.index.store.connection import store_errors
from services.index.store.entry import LogEntry
from services.index.store.keys import partition_keys
from services.index.store.load import PartitionAudit, audit_partition
from services.index.store.placement import IndexServer, PlacementTable
from services.runtime.channel import CHANNEL_OPTIONS
from services.runtime.errors import CorruptRecord, CsrError

_ENTRIES_READ: Final = 1_000
"""Log entries per round trip."""
_PATIENCE_SECONDS: Final = 10.0
"""How long a server may take to reach the position at which Redis was read …"""
_SPENT_PATIENCE_SECONDS: Final = 0.5
"""… and how long once it did not: it is behind, and may hold thousands of partitions."""


@dataclass
class PartitionReport:
    """What was found out about one partition.

    Attributes:
        documents: Live documents, as the log says.
        compared: Contents that were compared with the log: in Redis, in memory, in snapshots.
        findings: What is not as it should be.
        notes: What could not be compared although nothing is wrong with it.
    """

    documents: int
    compared: int = 0
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Examiner:
    """Keeps one channel per index server. Use it as a context manager."""

    def __init__(self, redis: Redis, table: PlacementTable) -> None:
        self._redis = redis
        self._table = table
        self._exits = AsyncExitStack()
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._behind: set[str] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._exits.aclose()

    async def examine(self, record: CollectionRecord, partition: int) -> PartitionReport:
        """Compare one partition wherever it is.

        Raises:
            WrongState: its collection was deleted meanwhile.
            StoreUnavailable, CorruptRecord: it cannot be read from Redis at all.
        """
        audit = await audit_partition(self._redis, record.collection_id, partition)
        examination = _Examination(self._redis, record, partition, audit, self._behind)
        owners = self._table.owners(record.collection_id, partition)
        listings = [await examination.check_server(server, await self._channel(server)) for server in owners]
        examination.check_store(next((listing for listing in listings if listing is not None), None))
        return examination.report

    async def _channel(self, server: IndexServer) -> grpc.aio.Channel:
        if server.name not in self._channels:
            channel = grpc.aio.insecure_channel(server.address, options=CHANNEL_OPTIONS)
            self._channels[server.name] = await self._exits.enter_async_context(channel)
        return self._channels[server.name]


class _Examination:
    """One partition, read once from Redis, beside everything that should be like it; notes servers that are behind."""

    def __init__(
        self, redis: Redis, record: CollectionRecord, partition: int, audit: PartitionAudit, behind: set[str]
    ) -> None:
        self._redis = redis
        self._record = record
        self._partition = partition
        self._audit = audit
        self._behind = behind
        self._claimed = Content(audit.lsn, audit.claimed_documents, audit.claimed_digest.hex())
        self._stored = dict(zip(audit.ids, audit.versions.tolist(), strict=True))
        self.report = PartitionReport(audit.claimed_documents)

    def check_store(self, listing: Mapping[str, int] | None) -> None:
        """Compare the records in Redis with what its log says, and look for damage in the log itself.

        Args:
            listing: Versions by id as an index server has them, if one does; it names what is gone.
        """
        audit = self._audit
        self.report.compared += 1
        if audit.unreadable:
            count = len(audit.unreadable)
            self._add("redis", f"{count:,} records fail their checksums", tuple(sorted(audit.unreadable))[:IDS_MAX])
        if audit.log_problem:
            self._add("redis, log", audit.log_problem)
        problem = difference(self._claimed, Content(audit.lsn, audit.documents, audit.digest.hex()))
        if problem is not None:
            self._add("redis", problem, () if listing is None else differing_ids(listing, self._stored))

    async def check_server(self, server: IndexServer, channel: grpc.aio.Channel) -> Mapping[str, int] | None:
        """Compare what a server holds, in memory and in its latest snapshot, with what the log says.

        Returns:
            Versions by id as the server has them, without those that were written meanwhile; only when the server or
            Redis are not as the log says.
        """
        record, audit = self._record, self._audit
        try:
            patience = _SPENT_PATIENCE_SECONDS if server.name in self._behind else _PATIENCE_SECONDS
            held = await held_by(channel, record.collection_id, self._partition, audit.lsn, patience)
            if held.memory.lsn < audit.lsn:
                self._behind.add(server.name)
            problem = await self._memory_problem(held.memory)
            await self._check_snapshot(f"{server.name}, snapshot", held)
            if problem is None and audit.intact:
                return None
            listing = await listed_by(channel, record.collection_id, record.active.generation, self._partition)
            settled = await self._settled(listing, held.memory.lsn)
        except CsrError as error:
            self._add(server.name, f"cannot be examined: {error}")
            return None
        if problem is not None:
            self._add(server.name, problem, differing_ids(self._stored, settled))
        return settled

    async def _memory_problem(self, memory: Content) -> str | None:
        self.report.compared += 1
        if memory.lsn < self._audit.lsn:
            behind = self._audit.lsn - memory.lsn
            return f"{behind:,} entries behind: at {memory.lsn}, the log is at {self._audit.lsn}"
        expected = await self._expected(memory.lsn)
        if expected is None:
            return f"at {memory.lsn}, which the log, read at {self._audit.lsn}, does not lead to"
        return difference(expected, memory)

    async def _check_snapshot(self, where: str, held: Held) -> None:
        if held.snapshot_problem:
            self._add(where, f"cannot be read: {held.snapshot_problem}")
        if held.snapshot is None:
            return
        expected = await self._expected(held.snapshot.lsn)
        if expected is None:
            self.report.notes.append(f"{where}: taken at {held.snapshot.lsn}, where the log no longer reaches")
            return
        self.report.compared += 1
        problem = difference(expected, held.snapshot)
        if problem is not None:
            self._add(where, problem)

    async def _expected(self, lsn: int) -> Content | None:
        """Return what the log says of a position; None where its entries do not lead."""
        first, last = sorted((self._audit.lsn, lsn))
        try:
            entries = await self._entries(first, last)
        except CorruptRecord:
            return None
        if [entry.lsn for entry in entries] != list(range(first + 1, last + 1)):
            return None
        return moved(self._claimed, entries, lsn)

    async def _settled(self, listing: Mapping[str, int], lsn: int) -> dict[str, int]:
        """Return a listing with what Redis had instead for documents that were written since either was read."""
        written = {entry.id for entry in await self._entries(min(lsn, self._audit.lsn), None)}
        settled = {id: version for id, version in listing.items() if id not in written}
        return settled | {id: version for id, version in self._stored.items() if id in written}

    async def _entries(self, after: int, last: int | None) -> list[LogEntry]:
        """Return what there is of the log behind one position, up to another; None: to its end."""
        log = partition_keys(self._record.collection_id, self._partition).log
        entries: list[LogEntry] = []
        while last is None or after < last:
            with store_errors("read a log"):
                items = await self._redis.xrange(
                    log, f"({after}-0", "+" if last is None else f"{last}-0", count=_ENTRIES_READ
                )
            if not items:
                break
            entries += [LogEntry.parse(stream_id, fields) for stream_id, fields in items]
            after = entries[-1].lsn
        return entries

    def _add(self, where: str, problem: str, ids: tuple[str, ...] = ()) -> None:
        record = self._record
        self.report.findings.append(Finding(record.name, record.collection_id, self._partition, where, problem, ids))
