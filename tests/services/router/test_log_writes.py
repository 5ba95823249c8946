"""Writes while Redis or index servers have no room, or do not answer; against a real Redis."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from redis.asyncio import Redis

from services.index.store.catalog import CollectionRecord
from services.index.store.connection import connect
from services.index.store.entry import DocumentBody, QuantisedCode
from services.index.store.functions import ensure_functions
from services.index.store.placement import IndexServer, PlacementTable, write_placement
from services.index.store.reports import ServerReport, report_server
from services.index.store.writer import DocumentWrite, LogWriter, WriteStatus
from services.router.deadline import Deadline
from services.router.directory import Directory
from services.router.log_writes import LogWrites
from services.router.write_request import deletion
from services.runtime.errors import StoreFull, StoreUnavailable
from services.runtime.redis_binary import find_redis_server
from services.runtime.settings import LogSettings
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
    async with connect(server.settings.model_copy(update={"timeout_seconds": 3.0})) as client:
        await ensure_functions(client)
        await write_placement(client, PlacementTable(1, 1, (IndexServer("index-0", "127.0.0.1:1"),)), 0)
        yield client


@pytest.fixture
async def directory(redis: Redis) -> Directory:
    """A directory that was read once."""
    directory = Directory(redis, refresh_seconds=0.05)
    await directory.refresh()
    return directory


@pytest.fixture
async def record(directory: Directory, new_record: Callable[..., CollectionRecord]) -> CollectionRecord:
    """A collection of four partitions."""
    record = new_record(kind="codes")
    await directory.catalog.create(record)
    return record


def document(id: str) -> DocumentWrite:
    """Return a document with one latent."""
    code = QuantisedCode(np.array([1], np.uint16), np.array([65535], np.uint16))
    return DocumentWrite(id, 0, deleted=False, body=DocumentBody(codes={1: code}), input_digest=bytes(8))


async def test_a_full_index_server_takes_deletions_only(
    directory: Directory, redis: Redis, record: CollectionRecord
) -> None:
    """Documents would be acknowledged until the server dies of them; or none could be deleted to make room."""
    log = LogWrites(directory, LogWriter(redis, LogSettings()))
    await log.write(record, [document("a")], "w1", Deadline.after(5))
    await report_server(redis, ServerReport("index-0", 960, 1_000, 0))
    await directory.refresh()
    with pytest.raises(StoreFull, match="index-0 uses 960 of 1000 bytes"):
        await log.write(record, [document("b")], "w2", Deadline.after(5))
    written = await log.write(record, [deletion("a", 0)], "w3", Deadline.after(5))
    assert [status for status, _ in written.outcomes] == [WriteStatus.APPLIED]
    await report_server(redis, ServerReport("index-0", 900, 1_000, 0))
    await directory.refresh()
    await log.write(record, [document("b")], "w2", Deadline.after(5))


async def test_while_redis_is_known_to_be_down_writes_fail_at_once(
    directory: Directory, redis: Redis, server: RedisServer, record: CollectionRecord
) -> None:
    """Every write would wait for a store that cannot answer, and hold its place meanwhile."""
    log = LogWrites(directory, LogWriter(redis, LogSettings()))
    server.pause()
    try:
        with pytest.raises(StoreUnavailable):
            await directory.refresh()
        started = time.monotonic()
        for _ in range(100):
            with pytest.raises(StoreUnavailable, match="nothing was written"):
                await log.write(record, [document("a")], "w", Deadline.after(5))
        assert time.monotonic() - started < 0.5
    finally:
        server.resume()
    await directory.refresh()
    await log.write(record, [document("a")], "w", Deadline.after(5))


async def test_a_write_ends_at_its_deadline_and_says_how_to_repeat_it(
    directory: Directory, redis: Redis, server: RedisServer, record: CollectionRecord
) -> None:
    """A caller whose write hangs would not learn that it may have happened."""
    log = LogWrites(directory, LogWriter(redis, LogSettings()))
    ids = [f"d{row}" for row in range(20)]
    server.pause()
    try:
        started = time.monotonic()
        with pytest.raises(StoreUnavailable, match="the outcome is unknown: repeat the request with write_id 'w'"):
            await log.write(record, [document(id) for id in ids], "w", Deadline.after(0.5))
        assert time.monotonic() - started < 1.0
    finally:
        server.resume()
    await asyncio.sleep(0.2)
    first = await log.write(record, [document(id) for id in ids], "w", Deadline.after(5))
    again = await log.write(record, [document(id) for id in ids], "w", Deadline.after(5))
    assert again == first


async def test_a_deletion_on_condition_spares_what_was_written_since(
    directory: Directory, redis: Redis, record: CollectionRecord
) -> None:
    """A deletion by filter would remove documents that do not match any more."""
    log = LogWrites(directory, LogWriter(redis, LogSettings()))
    ((_, old),) = (await log.write(record, [document("a")], "w1", Deadline.after(5))).outcomes
    ((_, new),) = (await log.write(record, [document("a")], "w2", Deadline.after(5))).outcomes
    skipped = await log.write(record, [deletion("a", 0, if_version=old)], "w3", Deadline.after(5))
    assert skipped.outcomes == [(WriteStatus.CHANGED, new)]
    deleted = await log.write(record, [deletion("a", 0, if_version=new)], "w4", Deadline.after(5))
    assert [status for status, _ in deleted.outcomes] == [WriteStatus.APPLIED]
