"""What the router remembers of the store, against a real Redis."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from services.index.store.catalog import Catalog, CollectionRecord
from services.index.store.connection import connect
from services.index.store.functions import ensure_functions
from services.index.store.placement import IndexServer, PlacementTable, write_placement
from services.router.directory import Directory
from services.runtime.errors import StoreUnavailable, UnknownCollection, WrongState
from services.runtime.redis_binary import find_redis_server
from tests.support.redis_server import RedisServer


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis of the test's own."""
    server = RedisServer(find_redis_server(), tmp_path)
    server.start()
    yield server
    server.kill()


@pytest.fixture
async def redis(server: RedisServer) -> AsyncIterator[Redis]:
    """A client of it; our functions are loaded and a placement table is written."""
    async with connect(server.settings) as client:
        await ensure_functions(client)
        await write_placement(client, PlacementTable(1, 1, (IndexServer("index-0", "127.0.0.1:1"),)), 0)
        yield client


@pytest.fixture
async def directory(redis: Redis) -> Directory:
    """A directory that was read once."""
    directory = Directory(redis, refresh_seconds=0.05)
    await directory.refresh()
    return directory


async def test_what_was_read_outlives_redis(
    directory: Directory, redis: Redis, server: RedisServer, new_record: Callable[..., CollectionRecord]
) -> None:
    """Searches would fail as soon as Redis is down."""
    record = new_record()
    await Catalog(redis).create(record)
    await directory.refresh()
    server.kill()
    with pytest.raises(StoreUnavailable):
        await directory.refresh()
    assert await directory.collection("docs") == record
    assert directory.placement.term == 1
    assert directory.collections() == [record]
    with pytest.raises(StoreUnavailable):
        await directory.collection("never-seen")


async def test_a_new_collection_is_found_at_once(
    directory: Directory, redis: Redis, new_record: Callable[..., CollectionRecord]
) -> None:
    """A collection that another router created would be unknown here until the next refresh."""
    with pytest.raises(UnknownCollection):
        await directory.collection("docs")
    record = new_record()
    await Catalog(redis).create(record)
    assert await directory.collection("docs") == record


async def test_a_deleted_collection_stays_forgotten(
    directory: Directory, redis: Redis, new_record: Callable[..., CollectionRecord]
) -> None:
    """A catalogue read that began before the deletion would bring the collection back for a moment."""
    record = new_record()
    await Catalog(redis).create(record)
    await directory.refresh()
    directory.forget(record)  # the store still lists it, as such a read would
    await directory.refresh()
    assert directory.collections() == []
    await Catalog(redis).delete("docs")
    await directory.refresh()
    with pytest.raises(UnknownCollection):
        await directory.collection("docs")


async def test_a_store_without_placement_is_not_ready(server: RedisServer) -> None:
    """A router would report readiness although no server answers for any partition."""
    async with connect(server.settings) as client:
        directory = Directory(client, refresh_seconds=0.05)
        with pytest.raises(StoreUnavailable):
            _ = directory.placement
        with pytest.raises(WrongState, match="placement"):
            await directory.refresh()


async def test_it_follows_the_store_in_the_background(
    directory: Directory, server: RedisServer, new_record: Callable[..., CollectionRecord]
) -> None:
    """After an outage the router would serve what it knew before it, for ever."""
    refreshed = asyncio.Event()

    async def on_refreshed() -> None:
        refreshed.set()

    following = asyncio.create_task(directory.keep_fresh(on_refreshed))
    try:
        server.restart()
        async with connect(server.settings) as client:
            await Catalog(client).create(new_record())
        refreshed.clear()
        async with asyncio.timeout(5):
            await refreshed.wait()
            while not directory.collections():
                await asyncio.sleep(0.02)
    finally:
        following.cancel()
    assert (await directory.collection("docs")).name == "docs"


async def test_functions_are_loaded_into_whatever_redis_answers(directory: Directory, redis: Redis) -> None:
    """After a failover to an empty Redis every write would fail until someone restarts the routers."""
    await redis.function_flush()
    await directory.refresh()
    assert int(await redis.fcall_ro("csr_version", 0)) >= 1
    assert directory.policy.appendfsync == "always"


async def test_positions_only_rise_and_end_with_their_collection(
    directory: Directory, redis: Redis, new_record: Callable[..., CollectionRecord]
) -> None:
    """A log that lost acknowledged writes would go unnoticed; or positions would fill the memory for ever."""
    record = new_record()
    await Catalog(redis).create(record)
    directory.saw(record.collection_id, {0: 5, 1: 2})
    directory.saw(record.collection_id, {0: 3, 1: 4})
    await directory.refresh()
    assert [directory.highest_lsn(record.collection_id, partition) for partition in range(3)] == [5, 4, 0]
    await Catalog(redis).delete("docs")
    await directory.refresh()
    assert directory.highest_lsn(record.collection_id, 0) == 0
