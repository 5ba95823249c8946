import pytest
from redis.asyncio import Redis

from services.index.store.catalog import Catalog, CollectionRecord
from services.index.store.freeze import freeze, unfreeze
from services.index.store.keys import partition_keys
from services.index.store.reader import DocumentReader
from services.index.store.writer import LogWriter
from services.runtime.errors import WrongState
from services.runtime.settings import LogSettings
from tests.services.index.store.documents import upsert


async def test_a_frozen_partition_is_read_but_not_written(redis: Redis, record: CollectionRecord) -> None:
    """Otherwise a partition could not be repaired while nobody changes it, or would stay closed to writers."""
    writer = LogWriter(redis, LogSettings())
    await writer.write(record, 0, [upsert("a", 1)], "1")
    for _ in range(2):
        await freeze(redis, record, 0)
    with pytest.raises(WrongState, match="for now"):
        await writer.write(record, 0, [upsert("a", 2)], "2")
    assert (await writer.write(record, 0, [upsert("a", 1)], "1")).lsn == 1, "a repeat still gets its result"
    [document] = await DocumentReader(redis).get(record, ["a"])
    assert document is not None
    for _ in range(2):
        await unfreeze(redis, record, 0)
    assert (await writer.write(record, 0, [upsert("a", 2)], "2")).lsn == 2


async def test_a_closed_partition_is_not_opened_again(redis: Redis, record: CollectionRecord) -> None:
    """Otherwise somebody who repairs a partition would bring a deleted collection back."""
    meta = partition_keys(record.collection_id, 0).meta
    await redis.fcall("csr_close", 1, meta)
    for change in (freeze, unfreeze):
        with pytest.raises(WrongState, match="closed"):
            await change(redis, record, 0)
    assert await redis.hget(meta, "state") == b"closed"
    await Catalog(redis).delete(record.name)
    with pytest.raises(WrongState, match="does not exist"):
        await unfreeze(redis, record, 0)
    assert await redis.exists(meta) == 0
