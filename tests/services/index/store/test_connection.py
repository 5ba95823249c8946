import asyncio
import itertools
import shutil
import time
from collections.abc import AsyncIterator, Callable

import pytest
from redis import exceptions
from redis.asyncio import Redis

from services.index.store.catalog import Catalog, CollectionRecord
from services.index.store.connection import connect, store_error
from services.index.store.functions import ensure_functions
from services.index.store.load import load_partition
from services.index.store.reader import DocumentReader
from services.index.store.writer import LogWriter, WriteStatus
from services.runtime.errors import CsrError, StoreFull, StoreUnavailable
from services.runtime.settings import LogSettings
from tests.services.index.store.documents import upsert
from tests.support.redis_server import RedisServer


@pytest.fixture
async def client(own_server: RedisServer) -> AsyncIterator[Redis]:
    """A client of a server that the test may hurt; it gives up after 0.3 seconds."""
    client = connect(own_server.settings.model_copy(update={"timeout_seconds": 0.3}))
    await ensure_functions(client)
    yield client
    await client.aclose()


@pytest.fixture
async def hurt(client: Redis, new_record: Callable[..., CollectionRecord]) -> CollectionRecord:
    """A collection on the server that the test may hurt."""
    record = new_record()
    await Catalog(client).create(record)
    return record


async def _once_up(read: Callable[[], object]) -> object:
    """Return what a read says once the client has noticed that Redis is back."""
    deadline = time.monotonic() + 5
    while True:
        try:
            return await read()
        except StoreUnavailable:
            assert time.monotonic() < deadline, "the client does not come back"
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (exceptions.ConnectionError("refused"), StoreUnavailable),
        (exceptions.TimeoutError("too slow"), StoreUnavailable),
        (exceptions.BusyLoadingError("Redis is loading the dataset in memory"), StoreUnavailable),
        (exceptions.ReadOnlyError("You can't write against a read only replica."), StoreUnavailable),
        (exceptions.MasterDownError("Link with MASTER is down"), StoreUnavailable),
        (exceptions.ResponseError("BUSY Redis is busy running a script."), StoreUnavailable),
        (exceptions.ResponseError("NOREPLICAS Not enough good replicas to write."), StoreUnavailable),
        (exceptions.ResponseError("ERR Function not found"), StoreUnavailable),
        (exceptions.OutOfMemoryError("command not allowed"), StoreFull),
        (exceptions.ResponseError("MISCONF Errors writing to the AOF file"), StoreFull),
        (
            exceptions.ResponseError("Command # 1 (HSET k) of pipeline caused error: MISCONF disk full"),
            StoreFull,
        ),
    ],
)
def test_errors_of_redis_become_ours(error: exceptions.RedisError, kind: type[CsrError]) -> None:
    """Otherwise clients would get INTERNAL, and not retry, for what passes by itself."""
    assert type(store_error("write", error)) is kind


def test_a_bug_of_ours_is_not_called_an_outage() -> None:
    """Otherwise clients would retry for ever what can never work."""
    bug = exceptions.ResponseError("ERR wrong number of arguments")
    assert store_error("write", bug) is bug


async def test_acknowledged_writes_survive_a_kill(
    own_server: RedisServer, client: Redis, hurt: CollectionRecord
) -> None:
    """Otherwise a crash of Redis would lose documents that clients were told are stored."""
    writer = LogWriter(client, LogSettings())
    acknowledged: dict[str, int] = {}
    highest = 0

    async def write_until_it_fails(name: str) -> None:
        nonlocal highest
        for number in itertools.count():
            batch = [upsert(f"{(number * 5 + i) % 300}", value=number) for i in range(5)]
            result = await writer.write(hurt, 0, batch, f"{name}-{number}", min_lsn=highest)
            highest = result.lsn
            acknowledged.update((w.id, o.version) for w, o in zip(batch, result.outcomes, strict=True))

    for round_number in range(3):
        asyncio.get_running_loop().call_later(0.15 + 0.05 * round_number, own_server.kill)
        with pytest.raises(StoreUnavailable):
            await write_until_it_fails(str(round_number))
        own_server.start()
        load = await _once_up(lambda: load_partition(client, hurt.collection_id, 0, "test"))
        assert load.tail.lsn >= highest
        stored = dict(zip(load.ids, load.versions.tolist(), strict=True))
        lost = {id for id, version in acknowledged.items() if stored.get(id, 0) < version}
        assert lost == set()
        highest = load.tail.lsn
    assert len(acknowledged) > 50, "the test wrote enough to mean something"


async def test_a_write_in_doubt_is_safe_to_repeat(
    own_server: RedisServer, client: Redis, hurt: CollectionRecord
) -> None:
    """Otherwise a retry after a timeout would store a document twice, under two versions."""
    writer = LogWriter(client, LogSettings())
    own_server.pause()
    with pytest.raises(StoreUnavailable):
        await writer.write(hurt, 0, [upsert("a")], "w")
    own_server.resume()
    result = await _once_up(lambda: writer.write(hurt, 0, [upsert("a")], "w"))
    assert [outcome.status for outcome in result.outcomes] == [WriteStatus.APPLIED]
    [head] = await DocumentReader(client).heads(hurt)
    assert (head.lsn, head.documents) == (1, 1)


async def test_writes_fail_fast_while_redis_is_down(
    own_server: RedisServer, client: Redis, hurt: CollectionRecord
) -> None:
    """Otherwise every request would hang to its deadline during an outage."""
    own_server.kill()
    begin = time.monotonic()
    with pytest.raises(StoreUnavailable):
        await LogWriter(client, LogSettings()).write(hurt, 0, [upsert("a")], "w")
    with pytest.raises(StoreUnavailable):
        await Catalog(client).get(hurt.name)
    assert time.monotonic() - begin < 1.5


async def test_a_full_redis_refuses_whole_writes_and_still_reads(client: Redis, hurt: CollectionRecord) -> None:
    """Otherwise a full Redis would store half a batch, or take reads down as well."""
    writer = LogWriter(client, LogSettings())
    await writer.write(hurt, 0, [upsert("a", 1)], "first")
    used = (await client.info("memory"))["used_memory"]
    await client.config_set("maxmemory", used + (4 << 20))

    async def fill() -> None:
        for number in itertools.count():
            ten = [upsert(f"{number}-{i}", 1, payload=b"x" * 60_000) for i in range(10)]
            await writer.write(hurt, 0, ten, str(number))

    with pytest.raises(StoreFull):
        await fill()
    assert await DocumentReader(client).get(hurt, ["a"]) != [None]
    load = await load_partition(client, hurt.collection_id, 0, "test")
    assert load.documents % 10 == 1, "whole writes only"
    await client.config_set("maxmemory", 0)
    assert (await writer.write(hurt, 0, [upsert("b", 1)], "last")).lsn == load.tail.lsn + 1


async def test_a_redis_that_cannot_save_is_full(own_server: RedisServer, client: Redis, hurt: CollectionRecord) -> None:
    """Otherwise a disk that refuses would be retried as if it passed by itself, or acknowledged."""
    await client.config_set("save", "3600 1")
    shutil.rmtree(own_server.folder)
    await client.bgsave()
    while (await client.info("persistence"))["rdb_bgsave_in_progress"]:
        await asyncio.sleep(0.02)
    with pytest.raises(StoreFull, match="MISCONF"):
        await LogWriter(client, LogSettings()).write(hurt, 0, [upsert("a", 1)], "w")
