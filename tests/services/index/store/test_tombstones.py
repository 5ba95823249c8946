import pytest
from redis.asyncio import Redis

from services.index.store.catalog import Catalog, CollectionRecord
from services.index.store.keys import partition_keys
from services.index.store.reader import DocumentReader
from services.index.store.writer import LogWriter, WriteStatus
from services.runtime.settings import LogSettings
from tests.services.index.store.documents import delete, upsert


@pytest.fixture
def writer(redis: Redis) -> LogWriter:
    """A writer that remembers deletions for a day."""
    return LogWriter(redis, LogSettings())


async def _age(redis: Redis, record: CollectionRecord) -> None:
    """Make all deletions so far look two days old."""
    tombstones = partition_keys(record.collection_id, 0).tombstones
    now, _ = await redis.time()
    ids = await redis.zrange(tombstones, 0, -1)
    await redis.zadd(tombstones, dict.fromkeys(ids, (now - 2 * 86_400) * 1_000_000))


async def _names(redis: Redis, record: CollectionRecord) -> set[str]:
    return {id.decode() for id in await redis.hkeys(partition_keys(record.collection_id, 0).docs)}


async def test_deletions_are_remembered_up_to_the_horizon_and_no_longer(
    redis: Redis, writer: LogWriter, record: CollectionRecord
) -> None:
    """Otherwise late writes would bring documents back, or deletions would fill Redis for ever."""
    await writer.write(record, 0, [upsert("a", 1), delete("a", 5), upsert("kept", 1)], "1")
    late = await writer.write(record, 0, [upsert("a", 4)], "2")
    assert [outcome.status for outcome in late.outcomes] == [WriteStatus.STALE]
    assert await _names(redis, record) == {"a", "kept"}
    await _age(redis, record)
    late = await writer.write(record, 0, [upsert("a", 4)], "3")
    assert [outcome.status for outcome in late.outcomes] == [WriteStatus.STALE], "decided before it was forgotten"
    assert await _names(redis, record) == {"kept"}
    again = await writer.write(record, 0, [upsert("a", 4)], "4")
    assert [outcome.status for outcome in again.outcomes] == [WriteStatus.APPLIED]


async def test_deleting_again_counts_from_then_on(redis: Redis, writer: LogWriter, record: CollectionRecord) -> None:
    """Otherwise a deletion could be forgotten within its horizon."""
    await writer.write(record, 0, [delete("a", 1)], "1")
    await _age(redis, record)
    await writer.write(record, 0, [delete("a", 2)], "2")
    await writer.write(record, 0, [upsert("b", 1)], "3")
    assert await _names(redis, record) == {"a", "b"}


async def test_deletions_are_forgotten_faster_than_they_can_come(
    redis: Redis, writer: LogWriter, record: CollectionRecord
) -> None:
    """Otherwise a collection with many deletions would keep growing."""
    for number in range(6):
        await writer.write(record, 0, [delete(f"old-{number}-{i}", 1) for i in range(100)], f"o{number}")
    await _age(redis, record)
    for number in range(5):
        await writer.write(record, 0, [delete(f"new-{number}-{i}", 1) for i in range(100)], f"n{number}")
    assert await _names(redis, record) == {f"new-{number}-{i}" for number in range(5) for i in range(100)}


async def test_a_document_that_came_back_is_never_forgotten(
    redis: Redis, writer: LogWriter, record: CollectionRecord
) -> None:
    """Otherwise acknowledged documents would vanish a day after a deletion before them."""
    keys = partition_keys(record.collection_id, 0)
    await writer.write(record, 0, [upsert("a", 1), delete("a", 2), upsert("a", 3)], "1")
    await writer.write(record, 0, [delete("b", 1)], "2")
    await writer.write(record, 0, [upsert("b", 2)], "3")
    assert await redis.exists(keys.tombstones) == 0
    await redis.zadd(keys.tombstones, {"a": 1, "b": 1, "never-there": 1})  # as if the list was damaged
    await writer.write(record, 0, [upsert("c", 1)], "4")
    assert [found and found.version for found in await DocumentReader(redis).get(record, ["a", "b"])] == [3, 2]
    assert await redis.exists(keys.tombstones) == 0


async def test_repairs_are_listed_by_generation_up_to_a_limit(
    redis: Redis, writer: LogWriter, record: CollectionRecord
) -> None:
    """Otherwise a generation could be cut over to while documents lack their codes in it."""
    await writer.write(record, 0, [upsert(f"{i}:1:x", 1, generations=()) for i in range(30)], "1")
    found = await DocumentReader(redis).repairs(record, 1, limit=100)
    assert found == {f"{i}:1:x": 1 for i in range(30)}
    assert len(await DocumentReader(redis).repairs(record, 1, limit=7)) == 7
    assert await DocumentReader(redis).repairs(record, 11, limit=7) == {}
    await writer.write(record, 0, [delete("0:1:x", 2), upsert("1:1:x", 2), upsert("2:1:x", 1)], "2")
    found = await DocumentReader(redis).repairs(record, 1, limit=100)
    assert found == {f"{i}:1:x": 1 for i in range(2, 30)}, "a write that is not stored repairs nothing"


async def test_a_deleted_collection_leaves_no_key(redis: Redis, writer: LogWriter, record: CollectionRecord) -> None:
    """Otherwise deleted collections would fill Redis for ever."""
    await writer.write(record, 0, [upsert("a", 1, generations=()), upsert("b", 1), delete("b", 2)], "1")
    keys = partition_keys(record.collection_id, 0)
    await redis.fcall("csr_pin", 2, keys.meta, keys.pins, "somebody", 0, 60)
    assert await redis.exists(*keys.all()) == 7, "every key is there"
    await Catalog(redis).delete(record.name)
    assert [key async for key in redis.scan_iter(match=f"*{record.collection_id}*")] == []
