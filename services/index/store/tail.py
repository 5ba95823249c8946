"""Follows logs of partitions, and loads a partition whose log cannot be followed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from redis.asyncio import Redis

from services.index.store.connection import store_errors
from services.index.store.entry import (
    GENESIS_CHAIN,
    LogEntry,
    StoredRecord,
    chain_after,
    combine_digests,
    document_digest,
)
from services.index.store.keys import partition_keys
from services.index.store.meta import FIELDS, PartitionMeta, parse_meta
from services.runtime.errors import CorruptRecord, StoreUnavailable, WrongState

_LOAD_ATTEMPTS: Final = 3
_SCAN_RECORDS: Final = 500


class ReloadReason(StrEnum):
    """Why a log cannot be followed from where the reader stands."""

    GAP = "gap"
    """Entries are missing: trimmed, lost, or of format 1, which cannot be followed."""
    REWOUND = "rewound"
    """The log ends before the reader's position, or was rewritten there: Redis lost acknowledged writes."""
    CHAIN = "chain"
    """An entry does not follow the one before it."""
    CORRUPT = "corrupt"
    """An entry fails its checksum, or the partition's meta cannot be read."""


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
    with store_errors("read logs"):
        async with redis.pipeline(transaction=False) as reads:
            for tail in tails:
                keys = partition_keys(tail.collection_id, tail.partition)
                reads.hmget(keys.meta, FIELDS)
                reads.xrange(keys.log, min=f"({tail.lsn}-0", count=entries_max)
            replies = await reads.execute()
    return [
        _examine(tail, values, items) for tail, values, items in zip(tails, replies[::2], replies[1::2], strict=True)
    ]


async def load_partition(redis: Redis, collection_id: str, partition: int) -> PartitionLoad:
    """Read a whole partition while writes go on: scan its hash, then apply the log up to the head after the scan.

    Raises:
        WrongState: the partition is closed or gone, or of a newer format.
        CorruptRecord: records fail their checksums, or the state digest differs from the one in Redis.
        StoreUnavailable: Redis does not answer, or trims the log faster than the partition loads.
    """
    reason = None
    for _ in range(_LOAD_ATTEMPTS):
        start = await _read_head(redis, collection_id, partition)
        records = await _scan(redis, collection_id, partition)
        end = await _read_head(redis, collection_id, partition)
        tail = PartitionTail(collection_id, partition, start.lsn, start.chain)
        reason = await _catch_up(redis, tail, end, records)
        if reason is None:
            return _verified(PartitionTail(collection_id, partition, end.lsn, end.chain), records, end)
    raise StoreUnavailable(f"partition {collection_id}:{partition} cannot be loaded: its log changed ({reason})")


def _examine(
    tail: PartitionTail, values: Sequence[bytes | None], items: Sequence[tuple[bytes, Mapping[bytes, bytes]]]
) -> TailBatch:
    """Check what one read returned: the meta, read first, and the entries after `tail`."""
    try:
        meta = parse_meta(values)
    except (CorruptRecord, WrongState):
        return TailBatch(tail, [], tail.lsn, ReloadReason.CORRUPT, closed=False)
    if meta is None or meta.state == "closed":
        return TailBatch(tail, [], tail.lsn, None, closed=True)
    if meta.lsn < tail.lsn or (meta.lsn == tail.lsn and meta.chain != tail.chain):
        return TailBatch(tail, [], meta.lsn, ReloadReason.REWOUND, closed=False)
    entries: list[LogEntry] = []
    reload = ReloadReason.GAP if meta.lsn > tail.lsn and not items else None
    for stream_id, fields in items:
        entry, reload = _next_entry(tail, stream_id, fields)
        if entry is None:
            break
        entries.append(entry)
        tail = replace(tail, lsn=entry.lsn, chain=entry.chain)
    return TailBatch(tail, entries, max(meta.lsn, tail.lsn), reload, closed=False)


def _next_entry(
    tail: PartitionTail, stream_id: bytes, fields: Mapping[bytes, bytes]
) -> tuple[LogEntry | None, ReloadReason | None]:
    if b"p" not in fields:  # format 1 does not say what an entry replaced
        return None, ReloadReason.GAP
    try:
        entry = LogEntry.parse(stream_id, fields)
    except CorruptRecord:
        return None, ReloadReason.CORRUPT
    if entry.lsn != tail.lsn + 1:
        return None, ReloadReason.GAP
    if entry.chain != chain_after(tail.chain, entry):
        return None, ReloadReason.CHAIN
    return entry, None


async def _read_head(redis: Redis, collection_id: str, partition: int) -> PartitionMeta:
    with store_errors("read the head of a partition"):
        values = await redis.hmget(partition_keys(collection_id, partition).meta, FIELDS)
    meta = parse_meta(values)
    if meta is None or meta.state == "closed":
        raise WrongState(f"partition {collection_id}:{partition} is closed: its collection was deleted")
    return meta


async def _scan(redis: Redis, collection_id: str, partition: int) -> dict[str, StoredRecord]:
    """Return every record that was there throughout the scan; of those written meanwhile, any state or none."""
    docs = partition_keys(collection_id, partition).docs
    records: dict[str, StoredRecord] = {}
    cursor = 0
    while True:
        with store_errors("scan a partition"):
            cursor, found = await redis.hscan(docs, cursor, count=_SCAN_RECORDS)
        for raw_id, raw in found.items():
            id = raw_id.decode()
            records[id] = StoredRecord.parse(id, raw)
        if cursor == 0:
            return records


async def _catch_up(
    redis: Redis, tail: PartitionTail, end: PartitionMeta, records: dict[str, StoredRecord]
) -> ReloadReason | None:
    """Replay the log from `tail` to `end` over the records; return why that failed, if it did.

    Whatever state of a document the scan saw, its last entry up to `end` is replayed last.
    """
    while tail.lsn < end.lsn:
        [batch] = await read_tails(redis, [tail])
        if batch.closed:
            raise WrongState(f"partition {tail.collection_id}:{tail.partition} is closed: its collection was deleted")
        for entry in batch.entries:
            if entry.lsn <= end.lsn:
                records[entry.id] = entry.record
        tail = batch.tail
        if batch.reload is not None and tail.lsn < end.lsn:
            return batch.reload
    return None


def _verified(tail: PartitionTail, records: Mapping[str, StoredRecord], head: PartitionMeta) -> PartitionLoad:
    live = [document_digest(id, record.version) for id, record in records.items() if not record.deleted]
    digest = combine_digests(live)
    if digest != head.digest or len(live) != head.documents:
        raise CorruptRecord(
            f"partition {tail.collection_id}:{tail.partition} at {tail.lsn}: {len(live)} documents with state digest "
            f"{digest.hex()}, but its meta says {head.documents} with {head.digest.hex()}"
        )
    return PartitionLoad(tail, records, len(live), digest)
