import asyncio
import time
from collections.abc import AsyncIterator, Callable

import pytest
from redis.asyncio import Redis

from services.index.store.announcements import Announcements
from services.index.store.catalog import Catalog, CollectionRecord
from services.index.store.connection import connect
from services.index.store.functions import ensure_functions
from services.index.store.keys import LOG_CHANNEL
from services.index.store.writer import LogWriter
from services.runtime.errors import StoreUnavailable
from services.runtime.settings import LogSettings
from tests.services.index.store.documents import delete, upsert
from tests.support.redis_server import RedisServer

NewRecord = Callable[..., CollectionRecord]


@pytest.fixture
async def announcements(redis: Redis) -> AsyncIterator[Announcements]:
    """Announcements that are open."""
    made = Announcements(redis)
    await made.open()
    yield made
    await made.close()


async def _until_complete(announcements: Announcements, since: float) -> set[tuple[str, int]]:
    """Return what was announced until nothing acknowledged before `since` can be missing."""
    found: set[tuple[str, int]] = set()
    deadline = time.monotonic() + 10
    while True:
        some, complete = await announcements.collect(1.0)
        found |= some
        if complete >= since:
            return found
        assert time.monotonic() < deadline, "it never becomes complete"


async def test_every_log_that_grew_is_announced(
    redis: Redis, announcements: Announcements, new_record: NewRecord
) -> None:
    """Otherwise an index server would serve old answers until its next look at all logs."""
    record = new_record(partitions=3)
    await Catalog(redis).create(record)
    writer = LogWriter(redis, LogSettings())
    await writer.write(record, 0, [upsert("a", 1), upsert("b", 1)], "1")
    await writer.write(record, 2, [delete("c", 1)], "2")
    assert await _until_complete(announcements, time.monotonic()) == {(record.collection_id, p) for p in (0, 2)}
    await writer.write(record, 0, [upsert("a", 1)], "3")
    assert await _until_complete(announcements, time.monotonic()) == set(), "nothing was appended"


async def test_whatever_was_acknowledged_before_is_announced(
    redis: Redis, announcements: Announcements, new_record: NewRecord
) -> None:
    """Otherwise an index server would claim to be fresher than it is."""
    record = new_record(partitions=64)
    await Catalog(redis).create(record)
    writer = LogWriter(redis, LogSettings())
    acknowledged: dict[tuple[str, int], float] = {}

    async def write_everywhere() -> None:
        for partition in range(64):
            await writer.write(record, partition, [upsert("a", 1)], "w")
            acknowledged[record.collection_id, partition] = time.monotonic()
            await asyncio.sleep(0.02)

    writing = asyncio.create_task(write_everywhere())
    found: set[tuple[str, int]] = set()
    times = set()
    while not writing.done():
        some, complete = await announcements.collect(0.1)
        found |= some
        times.add(complete)
        assert {partition for partition, when in acknowledged.items() if when < complete} <= found
    assert len(times) > 2, "it became complete several times meanwhile"


async def test_collecting_returns_at_once_when_something_grew_and_in_time_when_nothing_did(
    redis: Redis, announcements: Announcements, record: CollectionRecord
) -> None:
    """Otherwise writes would become visible late, or a quiet server could not tell how fresh it is."""
    begin = time.monotonic()
    assert (await announcements.collect(0.1))[0] == set()
    assert 0.09 < time.monotonic() - begin < 5
    collecting = asyncio.create_task(announcements.collect(60.0))
    await asyncio.sleep(0.05)
    await LogWriter(redis, LogSettings()).write(record, 0, [upsert("a", 1)], "1")
    found, _ = await asyncio.wait_for(collecting, 10)
    assert found == {(record.collection_id, 0)}


async def test_a_storm_is_collected_in_parts(redis: Redis, announcements: Announcements) -> None:
    """Otherwise a storm of writes would keep an index server from answering."""
    async with redis.pipeline(transaction=False) as calls:
        for number in range(1_000):
            calls.publish(LOG_CHANNEL, f"0123456789abcdef:{number}")
        await calls.execute()
    parts = [len((await announcements.collect(1.0))[0]) for _ in range(10)]
    assert sum(parts) == 1_000
    assert max(parts) < 500


async def _collect_for_ever(announcements: Announcements) -> None:
    for _ in range(200):
        await announcements.collect(0.1)


@pytest.fixture
async def client(own_server: RedisServer) -> AsyncIterator[Redis]:
    """A client of a server that the test may hurt."""
    client = connect(own_server.settings)
    await ensure_functions(client)
    yield client
    await client.aclose()


@pytest.mark.parametrize("back", [False, True], ids=["gone", "back"])
async def test_a_broken_connection_is_told(own_server: RedisServer, client: Redis, back: bool) -> None:
    """Otherwise an index server would wait for announcements that were lost, and call itself fresh."""
    announcements = Announcements(client)
    await announcements.open()
    if back:
        own_server.restart()
    else:
        own_server.kill()
    with pytest.raises(StoreUnavailable):
        await _collect_for_ever(announcements)
    with pytest.raises(StoreUnavailable, match="not open"):
        await announcements.collect(0.1)
    if not back:
        with pytest.raises(StoreUnavailable):
            await announcements.open()
        own_server.start()
    await announcements.open()
    await client.publish(LOG_CHANNEL, "0123456789abcdef:7")
    assert await _until_complete(announcements, time.monotonic()) == {("0123456789abcdef", 7)}
    await announcements.close()


async def test_a_client_that_connects_again_by_itself_is_told(redis: Redis, announcements: Announcements) -> None:
    """Otherwise what was announced while the connection was down would be missed without a word."""
    for other in await redis.client_list(_type="pubsub"):
        await redis.client_kill_filter(_id=other["id"])
    with pytest.raises(StoreUnavailable):
        await _collect_for_ever(announcements)


async def test_a_silent_redis_is_told(own_server: RedisServer, client: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise an index server would believe a dead connection for ever."""
    monkeypatch.setattr("services.index.store.announcements._SILENCE_SECONDS_MAX", 0.6)
    announcements = Announcements(client)
    await announcements.open()
    own_server.pause()
    begin = time.monotonic()
    try:
        assert (await announcements.collect(0.4))[1] < begin, "nothing is complete while nothing is heard"
        with pytest.raises(StoreUnavailable, match="ping"):
            await _collect_for_ever(announcements)
    finally:
        own_server.resume()
