"""Loads whole partitions, verified, when their logs cannot be followed."""

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from redis.asyncio import Redis

from services.index.store.connection import store_errors
from services.index.store.keys import partition_keys
from services.index.store.log_check import check_log
from services.index.store.meta import FIELDS, PartitionMeta, parse_meta
from services.index.store.pin import TrimPin
from services.index.store.tail import PartitionTail, ReloadReason, read_tails
from services.index.store.verified import verify_records
from services.runtime.errors import CorruptRecord, CsrError, StoreUnavailable, WrongState

_LOAD_ATTEMPTS: Final = 3
_SCAN_BYTES: Final = 1 << 20
"""What one step of a scan should bring: enough to be worth a round trip, little enough not to hold Redis up."""
_SCAN_RECORDS_FIRST, _SCAN_RECORDS_MAX = 100, 5_000
_SMALL_BYTES: Final = 64 << 10
"""A partition to which no more than this was ever written is small."""
_SMALL_AT_A_TIME: Final = 256


@dataclass(frozen=True, slots=True, eq=False)
class PartitionLoad:
    """The live documents of one partition at one position of its log, verified.

    Attributes:
        tail: Where to go on reading.
        ids: In no order.
        versions: int64, one per id.
        bodies: Encoded, one per id; see entry.decode_body and codes.decode_codes.
        documents: How many there are.
        digest: State digest, 20 bytes, recomputed and equal to the one in Redis.
    """

    tail: PartitionTail
    ids: list[str]
    versions: NDArray[np.int64]
    bodies: list[bytes]
    documents: int
    digest: bytes


@dataclass(frozen=True, slots=True, eq=False)
class PartitionAudit:
    """What lies in Redis of one partition at one position of its log, recomputed, beside what its meta says.

    Attributes:
        lsn: The position.
        ids: Live documents whose records are intact, in no order.
        versions: int64, one per id.
        documents: How many there are.
        digest: State digest of these documents, 20 bytes.
        unreadable: Records that fail their checksums: id -> why.
        claimed_documents: Live documents as the meta says.
        claimed_digest: State digest as the meta says.
        log_problem: What is wrong with the log, as check_log says; empty when it is right.
    """

    lsn: int
    ids: list[str]
    versions: NDArray[np.int64]
    documents: int
    digest: bytes
    unreadable: dict[str, str]
    claimed_documents: int
    claimed_digest: bytes
    log_problem: str

    @property
    def intact(self) -> bool:
        """Whether the records are what the meta says; the log is another matter."""
        claimed = (self.claimed_documents, self.claimed_digest)
        return not self.unreadable and (self.documents, self.digest) == claimed


async def load_partition(redis: Redis, collection_id: str, partition: int, reader: str) -> PartitionLoad:
    """Read a whole partition while writes go on: scan its hash, then apply the log up to the head after the scan.

    Args:
        redis: The store.
        collection_id: The collection.
        partition: Its partition.
        reader: Name of who reads; what is needed of the log is not trimmed meanwhile. One load at a time per name.

    Raises:
        WrongState: the partition is closed or gone, or of a newer format.
        CorruptRecord: records fail their checksums, or the state digest differs from the one in Redis.
        StoreUnavailable: Redis does not answer, or trims the log faster than the partition loads.
    """
    records, tail, head = await _read_whole(redis, collection_id, partition, reader)
    return await asyncio.to_thread(_verified, tail, records, head)


async def audit_partition(redis: Redis, collection_id: str, partition: int) -> PartitionAudit:
    """Read a whole partition as load_partition does, and tell what is wrong with it instead of refusing it.

    Raises:
        WrongState: the partition is closed or gone, or of a newer format.
        CorruptRecord: its meta cannot be read.
        StoreUnavailable: Redis does not answer, or the log cannot be followed while the partition is read.
    """
    reader = f"audit-{secrets.token_hex(4)}"
    records, _, head = await _read_whole(redis, collection_id, partition, reader)
    found = await asyncio.to_thread(verify_records, records)
    async with TrimPin(redis, PartitionTail(collection_id, partition), reader):
        log_problem = await check_log(redis, collection_id, partition)
    return PartitionAudit(
        head.lsn,
        found.ids,
        found.versions,
        len(found.ids),
        found.digest,
        found.unreadable,
        head.documents,
        head.digest,
        log_problem,
    )


async def load_small_partitions(
    redis: Redis, partitions: Sequence[tuple[str, int]]
) -> dict[tuple[str, int], PartitionLoad]:
    """Load the small ones among many partitions, hundreds in a round trip.

    Args:
        redis: The store.
        partitions: As (collection id, partition).

    Returns:
        What was loaded. Left out are partitions that are large, change meanwhile or cannot be loaded: load_partition
        loads them or says why not.

    Raises:
        StoreUnavailable: Redis does not answer.
    """
    loaded: dict[tuple[str, int], PartitionLoad] = {}
    for begin in range(0, len(partitions), _SMALL_AT_A_TIME):
        group = partitions[begin : begin + _SMALL_AT_A_TIME]
        before = await _small_heads(redis, group)
        filled = [which for which, head in before.items() if head.lsn > 0]
        records, after = await _read_small(redis, filled)
        for which, head in before.items():
            if head.lsn > 0 and after.get(which) != head:
                continue
            try:
                loaded[which] = _verified(PartitionTail(*which, head.lsn, head.chain), records.get(which, {}), head)
            except CsrError:
                continue
        await asyncio.sleep(0)
    return loaded


async def _read_whole(
    redis: Redis, collection_id: str, partition: int, reader: str
) -> tuple[dict[bytes, bytes], PartitionTail, PartitionMeta]:
    """Return all records at one position, raw and unverified; where to go on reading; and the head there."""
    reason = None
    for _ in range(_LOAD_ATTEMPTS):
        start = await _read_head(redis, collection_id, partition)
        tail = PartitionTail(collection_id, partition, start.lsn, start.chain)
        if start.lsn == 0:
            return {}, tail, start
        async with TrimPin(redis, tail, reader) as pin:
            records = await _scan(redis, pin)
            end = await _read_head(redis, collection_id, partition)
            reason = await _catch_up(redis, tail, end, records)
        if reason is None:
            mean = sum(map(len, records.values())) // max(len(records), 1)
            return records, PartitionTail(collection_id, partition, end.lsn, end.chain, max(mean, 1)), end
    raise StoreUnavailable(f"partition {collection_id}:{partition} cannot be loaded: its log changed ({reason})")


async def _read_head(redis: Redis, collection_id: str, partition: int) -> PartitionMeta:
    with store_errors("read the head of a partition"):
        values = await redis.hmget(partition_keys(collection_id, partition).meta, FIELDS)
    meta = parse_meta(values)
    if meta is None or meta.state == "closed":
        raise _deleted(collection_id, partition)
    return meta


def _deleted(collection_id: str, partition: int) -> WrongState:
    return WrongState(f"partition {collection_id}:{partition} is closed: its collection was deleted")


async def _scan(redis: Redis, pin: TrimPin) -> dict[bytes, bytes]:
    """Return every record that was there throughout the scan; of those written meanwhile, any state or none."""
    docs = partition_keys(pin.tail.collection_id, pin.tail.partition).docs
    records: dict[bytes, bytes] = {}
    cursor, count = 0, _SCAN_RECORDS_FIRST
    while True:
        with store_errors("scan a partition"):
            cursor, found = await redis.hscan(docs, cursor, count=count)
        records.update(found)
        if cursor == 0:
            return records
        if found:
            mean = sum(map(len, found.values())) // len(found) + 1
            count = max(1, min(_SCAN_BYTES // mean, _SCAN_RECORDS_MAX))
        await pin.renew()


async def _catch_up(
    redis: Redis, tail: PartitionTail, end: PartitionMeta, records: dict[bytes, bytes]
) -> ReloadReason | None:
    """Replay the log from `tail` to `end` over the records; return why that failed, if it did.

    Whatever state of a document the scan saw, its last entry up to `end` is replayed last.
    """
    while tail.lsn < end.lsn:
        [batch] = await read_tails(redis, [tail])
        if batch.closed:
            raise _deleted(tail.collection_id, tail.partition)
        for entry in batch.entries:
            if entry.lsn <= end.lsn:
                records[entry.id.encode()] = entry.raw_record
        tail = batch.tail
        if batch.reload is not None and tail.lsn < end.lsn:
            return batch.reload
    return None


def _verified(tail: PartitionTail, records: Mapping[bytes, bytes], head: PartitionMeta) -> PartitionLoad:
    found = verify_records(records)
    if found.unreadable:
        raise CorruptRecord(next(iter(found.unreadable.values())))
    if found.digest != head.digest or len(found.ids) != head.documents:
        raise CorruptRecord(
            f"partition {tail.collection_id}:{tail.partition} at {tail.lsn}: {len(found.ids)} documents with state "
            f"digest {found.digest.hex()}, but its meta says {head.documents} with {head.digest.hex()}"
        )
    return PartitionLoad(tail, found.ids, found.versions, found.bodies, len(found.ids), found.digest)


async def _small_heads(redis: Redis, partitions: Sequence[tuple[str, int]]) -> dict[tuple[str, int], PartitionMeta]:
    """Return the heads of those partitions that are small and open."""
    with store_errors("read heads of partitions"):
        async with redis.pipeline(transaction=False) as reads:
            for which in partitions:
                reads.hmget(partition_keys(*which).meta, (*FIELDS, "log_bytes"))
            replies = await reads.execute()
    heads: dict[tuple[str, int], PartitionMeta] = {}
    for which, (*values, written) in zip(partitions, replies, strict=True):
        try:
            head = parse_meta(values)
        except CsrError:
            continue
        if head is not None and head.state != "closed" and int(written or 0) <= _SMALL_BYTES:
            heads[which] = head
    return heads


async def _read_small(
    redis: Redis, partitions: Sequence[tuple[str, int]]
) -> tuple[dict[tuple[str, int], dict[bytes, bytes]], dict[tuple[str, int], PartitionMeta]]:
    """Return all records of partitions, and the heads after they were read."""
    if not partitions:
        return {}, {}
    with store_errors("read small partitions"):
        async with redis.pipeline(transaction=False) as reads:
            for which in partitions:
                reads.hgetall(partition_keys(*which).docs)
            records = await reads.execute()
    return dict(zip(partitions, records, strict=True)), await _small_heads(redis, partitions)
