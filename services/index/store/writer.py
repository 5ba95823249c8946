"""Writes documents: one atomic function call per partition and batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from redis.asyncio import Redis

from services.index.store.catalog import CollectionRecord
from services.index.store.entry import DocumentBody
from services.runtime.settings import LogSettings


class WriteStatus(StrEnum):
    """What became of one document."""

    APPLIED = "applied"
    UNCHANGED = "unchanged"
    STALE = "stale"
    CONFLICT = "conflict"


@dataclass(frozen=True, slots=True)
class DocumentWrite:
    """One document to store or delete.

    Attributes:
        id: 1..128 bytes of UTF-8.
        version: 1..2^53-1, or 0 to have one assigned.
        deleted: Delete; the deletion is recorded even when the id is unknown.
        body: None exactly when deleted.
        input_digest: 8 bytes; see entry.input_digest.
    """

    id: str
    version: int
    deleted: bool
    body: DocumentBody | None
    input_digest: bytes


@dataclass(frozen=True, slots=True)
class WriteOutcome:
    """Status of one document, and the version that is stored now."""

    status: WriteStatus
    version: int


@dataclass(frozen=True, slots=True)
class PartitionWrite:
    """Result of a write to one partition.

    Attributes:
        lsn: Position that covers everything the outcomes say.
        outcomes: One per document, in order.
    """

    lsn: int
    outcomes: list[WriteOutcome]


class LogWriter:
    """Writes to partitions; holds no state of its own."""

    def __init__(self, redis: Redis, settings: LogSettings) -> None:
        self._redis = redis
        self._settings = settings

    async def write(
        self,
        record: CollectionRecord,
        partition: int,
        writes: Sequence[DocumentWrite],
        write_id: str,
        min_lsn: int = 0,
        term: int | None = None,
    ) -> PartitionWrite:
        """Write documents that all belong to one partition.

        Large writes are split into chunks, each atomic. Chunks depend only on the input, so a repeat with the same
        write id finds the first results, also when the first attempt stopped half-way.

        Args:
            record: The collection.
            partition: The partition of every id; ids are unique.
            writes: Documents in order.
            write_id: Names the write, 1..64 bytes; a repeat returns the first result.
            min_lsn: Highest position seen of this partition; a log behind it lost acknowledged writes and is refused.
            term: Refuse when the partition has another term; None: do not care.

        Raises:
            StoreUnavailable: unknown whether it happened; repeat with the same write id.
            StoreFull: Redis lacks memory or disk.
            WrongState: the partition is closed, frozen, of another term, or behind min_lsn.
            InvalidRequest: the write id was used for another write.
        """
        raise NotImplementedError
