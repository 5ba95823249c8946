"""Follows logs of partitions, and loads a partition whose log cannot be followed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from redis.asyncio import Redis

from services.index.store.entry import GENESIS_CHAIN, LogEntry, StoredRecord


class ReloadReason(StrEnum):
    """Why a log cannot be followed from where the reader stands."""

    GAP = "gap"
    """Entries are missing: trimmed, or lost."""
    REWOUND = "rewound"
    """The log ends before the reader's position, or was rewritten there: Redis lost acknowledged writes."""
    CHAIN = "chain"
    """An entry does not follow the one before it."""
    CORRUPT = "corrupt"
    """An entry fails its checksum."""


@dataclass(frozen=True, slots=True)
class PartitionTail:
    """Where a reader stands in the log of one partition: after the entry with this LSN and chain."""

    collection_id: str
    partition: int
    lsn: int = 0
    chain: bytes = GENESIS_CHAIN


@dataclass(frozen=True, slots=True)
class TailBatch:
    """What one read of a log found.

    Attributes:
        tail: Where the reader stands after these entries.
        entries: By LSN ascending, without gaps; checksums and chain are right.
        head_lsn: Head of the log when it was read, at least tail.lsn unless it was rewound.
        reload: Why the reader cannot go on from `tail`; the entries before are good. Call load_partition.
        closed: The partition is closed or gone: its collection was deleted.
    """

    tail: PartitionTail
    entries: list[LogEntry]
    head_lsn: int
    reload: ReloadReason | None
    closed: bool


@dataclass(frozen=True, slots=True)
class PartitionLoad:
    """All of one partition at one position of its log.

    Attributes:
        tail: Where to go on reading.
        records: Live documents and tombstones, by id.
        documents: Live documents.
        digest: State digest, 20 bytes, recomputed from the records and equal to the one in Redis.
    """

    tail: PartitionTail
    records: Mapping[str, StoredRecord]
    documents: int
    digest: bytes


async def read_tails(redis: Redis, tails: Sequence[PartitionTail], entries_max: int = 1_000) -> list[TailBatch]:
    """Read on in many logs at once, without blocking; one round trip.

    Args:
        redis: Where the logs are.
        tails: Where the reader stands in each.
        entries_max: Most entries read of each log.

    Returns:
        One batch per tail, in order.

    Raises:
        StoreUnavailable: Redis does not answer.
    """
    raise NotImplementedError


async def load_partition(redis: Redis, collection_id: str, partition: int) -> PartitionLoad:
    """Read a whole partition while writes go on: scan its hash, then apply the log up to the head after the scan.

    Raises:
        WrongState: the partition is closed or gone, or of a newer format.
        CorruptRecord: records fail their checksums, or the state digest differs from the one in Redis.
        StoreUnavailable: Redis does not answer, or trims the log faster than the partition loads.
    """
    raise NotImplementedError
