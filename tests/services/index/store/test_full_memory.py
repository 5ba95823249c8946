"""A Redis at its maxmemory: nothing can be added, everything can be read, and whatever makes room works."""

from collections.abc import AsyncIterator, Callable

import pytest
from redis.asyncio import Redis

from services.index.store.catalog import Catalog, CollectionRecord
from services.index.store.connection import connect
from services.index.store.freeze import freeze
from services.index.store.functions import ensure_functions
from services.index.store.load import audit_partition, load_partition
from services.index.store.reader import DocumentReader
from services.index.store.writer import LogWriter
from services.runtime.errors import StoreFull, UnknownCollection, WrongState
from services.runtime.settings import LogSettings
from tests.services.index.store.documents import delete, upsert
from tests.support.redis_server import RedisServer


@pytest.fixture
async def full(own_server: RedisServer, new_record: Callable[..., CollectionRecord]) -> AsyncIterator[Redis]:
    """A client of a server that holds one collection of one document and takes nothing more."""
    client = connect(own_server.settings)
    await ensure_functions(client)
    record = new_record("large")
    await Catalog(client).create(record)
    await LogWriter(client, LogSettings()).write(record, 0, [upsert("a", 1, payload=b"x" * 60_000)], "1")
    await client.config_set("maxmemory", 1)
    yield client
    await client.aclose()


async def test_writes_are_refused_and_say_why(full: Redis) -> None:
    """Otherwise nobody would know what to do about writes that fail."""
    record = await Catalog(full).get("large")
    with pytest.raises(StoreFull, match="full"):
        await LogWriter(full, LogSettings()).write(record, 0, [upsert("b", 1)], "2")
    with pytest.raises(StoreFull, match="full"):  # one deletion makes no room for the rest
        await LogWriter(full, LogSettings()).write(record, 0, [delete("a", 2), upsert("b", 1)], "3")
    [document] = await DocumentReader(full).get(record, ["a"])
    assert document is not None
    assert document.version == 1


async def test_documents_can_be_deleted(full: Redis) -> None:
    """Otherwise a full Redis could not be emptied through the API."""
    record = await Catalog(full).get("large")
    await LogWriter(full, LogSettings()).write(record, 0, [delete("a", 2)], "2")
    assert await DocumentReader(full).get(record, ["a"]) == [None]


async def test_partitions_can_be_loaded_and_frozen(full: Redis) -> None:
    """Otherwise an index server that restarts while Redis is full would not answer."""
    record = await Catalog(full).get("large")
    assert (await load_partition(full, record.collection_id, 0, "test")).documents == 1
    assert (await audit_partition(full, record.collection_id, 0)).intact
    await freeze(full, record, 0)
    with pytest.raises(WrongState):
        await LogWriter(full, LogSettings()).write(record, 0, [delete("a", 2)], "2")


async def test_collections_can_be_deleted(full: Redis) -> None:
    """Otherwise a full Redis could not be emptied through the API."""
    record = await Catalog(full).delete("large")
    with pytest.raises(UnknownCollection):
        await Catalog(full).get("large")
    assert [key async for key in full.scan_iter(match=f"*{record.collection_id}*")] == []
