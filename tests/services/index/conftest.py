import asyncio
from collections.abc import AsyncIterator, Iterator

import numpy as np
import pytest
from redis.asyncio import Redis

from services.index.store.connection import connect
from services.runtime.redis_binary import find_redis_server
from tests.services.index.world import place
from tests.support.index_server import IndexServerProcess
from tests.support.redis_server import RedisServer


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers that are the same in every run."""
    return np.random.default_rng(7)


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RedisServer, IndexServerProcess]]:
    """A Redis and an index server that own every collection; for tests that hurt neither."""
    store = RedisServer(find_redis_server(), tmp_path_factory.mktemp("index-redis"))
    server = IndexServerProcess(store.url, tmp_path_factory.mktemp("index-server"))
    store.start()
    try:
        asyncio.run(_place(store, server))
        server.start()
        yield store, server
    finally:
        server.kill()
        store.stop()


async def _place(store: RedisServer, server: IndexServerProcess) -> None:
    async with connect(store.settings) as client:
        await place(client, [server])


@pytest.fixture
async def shared_store(shared_server: tuple[RedisServer, IndexServerProcess]) -> AsyncIterator[Redis]:
    """A client of the shared Redis."""
    async with connect(shared_server[0].settings) as client:
        yield client


@pytest.fixture
def server(shared_server: tuple[RedisServer, IndexServerProcess]) -> IndexServerProcess:
    """The shared index server."""
    return shared_server[1]


@pytest.fixture(scope="session")
def frail_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis that tests kill; each leaves it running."""
    store = RedisServer(find_redis_server(), tmp_path_factory.mktemp("frail-redis"))
    store.start()
    yield store
    store.kill()


@pytest.fixture(scope="session")
def frail_servers(
    frail_store: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[IndexServerProcess]]:
    """Three index servers that tests kill, of which only the first runs and is placed; each test leaves it so."""
    folder = tmp_path_factory.mktemp("frail-servers")
    slow = {"CSR_INDEX__POLL_MAX_MS": "2000", "CSR_REDIS__TIMEOUT_SECONDS": "1"}
    servers = [IndexServerProcess(frail_store.url, folder, f"index-{i}", **slow) for i in range(3)]
    try:
        asyncio.run(_place(frail_store, servers[0]))
        servers[0].start()
        yield servers
    finally:
        for server in servers:
            server.kill()


@pytest.fixture
async def frail_client(frail_store: RedisServer) -> AsyncIterator[Redis]:
    """A client of the Redis that tests kill."""
    async with connect(frail_store.settings) as client:
        yield client
