from collections.abc import Callable

import pytest
from redis.asyncio import Redis

from services.index.store.catalog import CollectionRecord
from services.index.store.keys import PartitionKeys, partition_keys
from services.index.store.load import audit_partition
from services.index.store.log_check import check_log
from services.index.store.writer import LogWriter
from services.runtime.settings import LogSettings
from tests.services.index.store.documents import delete, update, upsert

Change = Callable[[Redis, PartitionKeys], object]


@pytest.fixture
async def keys(redis: Redis, record: CollectionRecord) -> PartitionKeys:
    """The keys of a partition with 300 entries in its log."""
    writer = LogWriter(redis, LogSettings())
    await writer.write(record, 0, [upsert(f"{i}", 1) for i in range(297)], "1")
    await writer.write(record, 0, [upsert("0", 2), update("1", 2), delete("2", 2)], "2")
    return partition_keys(record.collection_id, 0)


async def test_an_intact_log_is_right_also_where_it_was_trimmed(
    redis: Redis, record: CollectionRecord, keys: PartitionKeys
) -> None:
    """Otherwise an audit would report damage where there is none."""
    assert await check_log(redis, record.collection_id, 0) == ""
    await redis.xtrim(keys.log, maxlen=50, approximate=False)
    assert await check_log(redis, record.collection_id, 0) == ""
    await redis.delete(keys.log)
    assert await check_log(redis, record.collection_id, 0) == ""


@pytest.mark.parametrize("field", [b"i", b"r", b"p", b"c"])
@pytest.mark.parametrize("position", [0, -1])
async def test_every_damaged_field_of_an_entry_is_found(
    redis: Redis, record: CollectionRecord, keys: PartitionKeys, field: bytes, position: int
) -> None:
    """Otherwise a log that no server can follow any more would go unnoticed until one restarts."""
    items = await redis.xrange(keys.log)
    await redis.delete(keys.log)
    for stream_id, fields in items:
        if stream_id == b"200-0":
            value = bytearray(fields[field])
            value[position] ^= 1
            fields[field] = bytes(value)
        await redis.xadd(keys.log, fields, id=stream_id)
    assert await check_log(redis, record.collection_id, 0) != ""
    audit = await audit_partition(redis, record.collection_id, 0)
    assert (audit.intact, audit.log_problem != "") == (True, True)


async def test_a_missing_entry_is_found(redis: Redis, record: CollectionRecord, keys: PartitionKeys) -> None:
    """Otherwise replicas that read before and after the loss would differ without a word."""
    await redis.xdel(keys.log, "200-0")
    assert "201 comes after 199" in await check_log(redis, record.collection_id, 0)
