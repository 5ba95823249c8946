"""Checks all of a partition's log that is kept, not only what a reader happens to follow."""

from collections.abc import Mapping
from typing import Final

from redis.asyncio import Redis

from services.index.store.connection import store_errors
from services.index.store.entry import LogEntry, chain_after
from services.index.store.keys import partition_keys
from services.runtime.errors import CorruptRecord

_ENTRIES_PER_READ: Final = 128
"""Of up to 100 KiB each."""


async def check_log(redis: Redis, collection_id: str, partition: int) -> str:
    """Return what is wrong with the entries of a log: the first one that is damaged, or does not follow the one before
    it; empty when all are right. Entries of format 1, which are older than the others, are passed over.

    Pin the log meanwhile, or what is trimmed looks like a gap.

    Raises:
        StoreUnavailable: Redis does not answer.
    """
    log, last, previous = partition_keys(collection_id, partition).log, "-", None
    while True:
        with store_errors("check a log"):
            items = await redis.xrange(log, min=last, count=_ENTRIES_PER_READ)
        for stream_id, fields in items:
            last = f"({stream_id.decode()}"
            if b"p" not in fields and previous is None:
                continue
            try:
                previous = _checked(previous, stream_id, fields)
            except CorruptRecord as error:
                return str(error)
        if not items:
            return ""


def _checked(previous: LogEntry | None, stream_id: bytes, fields: Mapping[bytes, bytes]) -> LogEntry:
    entry = LogEntry.parse(stream_id, fields)
    if previous is not None and entry.lsn != previous.lsn + 1:
        raise CorruptRecord(f"log entry {entry.lsn} comes after {previous.lsn}: those between are missing")
    if previous is not None and entry.chain != chain_after(previous.chain, entry):
        raise CorruptRecord(f"log entry {entry.lsn} does not continue the chain of {previous.lsn}")
    return entry
