"""Freezing: a partition that takes no writes for a while, because what it holds must be looked at or repaired."""

from redis.asyncio import Redis

from services.index.store.catalog import CollectionRecord
from services.index.store.connection import store_errors
from services.index.store.keys import partition_keys


async def freeze(redis: Redis, record: CollectionRecord, partition: int) -> None:
    """Have a partition refuse writes until `unfreeze`; reads go on. Freezing twice is freezing once.

    Raises:
        WrongState: the partition is closed or gone.
        StoreUnavailable: Redis does not answer.
    """
    await _set_state(redis, record, partition, "frozen")


async def unfreeze(redis: Redis, record: CollectionRecord, partition: int) -> None:
    """Have a partition take writes again, if it did not anyway.

    Raises:
        WrongState: the partition is closed or gone.
        StoreUnavailable: Redis does not answer.
    """
    await _set_state(redis, record, partition, "open")


async def _set_state(redis: Redis, record: CollectionRecord, partition: int, state: str) -> None:
    with store_errors(f"set {record.name!r}, partition {partition}, to {state}"):
        await redis.fcall("csr_set_state", 1, partition_keys(record.collection_id, partition).meta, state)
