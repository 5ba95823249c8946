"""Follows logs of partitions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from redis.asyncio import Redis

from services.index.store.connection import store_errors
from services.index.store.entry import GENESIS_CHAIN, LogEntry, chain_after
from services.index.store.keys import partition_keys
from services.index.store.meta import FIELDS, parse_meta
from services.runtime.errors import CorruptRecord, WrongState

_READ_BYTES_MAX: Final = 8 << 20
_ENTRIES_MIN: Final = 8
"""Read of a log at a time at least, however large its entries are."""
_ENTRY_BYTES: Final = 1_024
"""Size that entries are expected to have before any were seen."""


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
    """Where a reader stands in the log of one partition: after the entry with this LSN and chain.

    Attributes:
        entry_bytes: How large entries were lately, so that the next read can be bounded; no part of the position.
    """

    collection_id: str
    partition: int
    lsn: int = 0
    chain: bytes = GENESIS_CHAIN
    entry_bytes: int = field(default=_ENTRY_BYTES, compare=False)


@dataclass(frozen=True, slots=True)
class TailBatch:
    """What one read of a log found.

    Attributes:
        tail: Where the reader stands after these entries.
        entries: By LSN ascending, without gaps; checksums and chain are right.
        head_lsn: Head of the log when it was read, at least tail.lsn unless it was rewound.
        reload: Why the reader cannot go on from `tail`; the entries before are good. Load the partition.
        closed: The partition is closed or gone: its collection was deleted.
    """

    tail: PartitionTail
    entries: list[LogEntry]
    head_lsn: int
    reload: ReloadReason | None
    closed: bool


async def read_tails(redis: Redis, tails: Sequence[PartitionTail], entries_max: int = 1_000) -> list[TailBatch]:
    """Read on in many logs at once, without blocking; one round trip of about 8 MiB at most.

    Args:
        redis: Where the logs are.
        tails: Where the reader stands in each.
        entries_max: Most entries read of each log; fewer where they have been large.

    Returns:
        One batch per tail, in order.

    Raises:
        StoreUnavailable: Redis does not answer.
    """
    share = _READ_BYTES_MAX // max(len(tails), 1)
    with store_errors("read logs"):
        async with redis.pipeline(transaction=False) as reads:
            for tail in tails:
                keys = partition_keys(tail.collection_id, tail.partition)
                reads.hmget(keys.meta, FIELDS)
                count = min(entries_max, max(share // tail.entry_bytes, _ENTRIES_MIN))
                reads.xrange(keys.log, min=f"({tail.lsn}-0", count=count)
            replies = await reads.execute()
    return [
        _examine(tail, values, items) for tail, values, items in zip(tails, replies[::2], replies[1::2], strict=True)
    ]


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
    if entries:
        tail = replace(tail, entry_bytes=_mean_bytes(entries))
    return TailBatch(tail, entries, max(meta.lsn, tail.lsn), reload, closed=False)


def _mean_bytes(entries: Sequence[LogEntry]) -> int:
    return max(sum(len(entry.id) + len(entry.body) for entry in entries) // len(entries), 1)


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
