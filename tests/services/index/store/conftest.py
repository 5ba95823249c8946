from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from services.index.store.catalog import Catalog, CollectionRecord, GenerationRecord, new_collection_id
from services.index.store.connection import connect
from services.index.store.functions import ensure_functions
from services.runtime.redis_binary import find_redis_server, installed_redis_servers
from tests.support.redis_server import RedisServer

SERVERS = installed_redis_servers() or [find_redis_server]  # without any server: fail in the fixture, never skip


def _server_name(binary: object) -> str:
    return binary.name if isinstance(binary, Path) else "missing"


@pytest.fixture(scope="session", params=SERVERS, ids=_server_name)
def redis_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server that the tests of a folder share: every installed kind in turn."""
    binary = request.param if isinstance(request.param, Path) else request.param()
    server = RedisServer(binary, tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def redis(redis_server: RedisServer) -> AsyncIterator[Redis]:
    """A client of the shared server with our functions loaded."""
    client = connect(redis_server.settings)
    await ensure_functions(client)
    yield client
    await client.aclose()


@pytest.fixture
async def own_server(redis_server: RedisServer, tmp_path: Path) -> AsyncIterator[RedisServer]:
    """A server of the same kind for one test that hurts it."""
    server = RedisServer(redis_server.binary, tmp_path / "redis")
    server.start()
    yield server
    server.kill()


@pytest.fixture
def new_record() -> Callable[..., CollectionRecord]:
    """Make records of collections with random names."""

    def make(name: str | None = None, partitions: int = 1) -> CollectionRecord:
        collection_id = new_collection_id()
        return CollectionRecord(
            name=name or f"c{collection_id}",
            collection_id=collection_id,
            kind="dense",
            versioning="client",
            input_dim=4,
            k_max=4,
            partitions=partitions,
            generations=(GenerationRecord(1, "active", "csr-adapter", 1, "0" * 32, 64),),
        )

    return make


@pytest.fixture
async def record(redis: Redis, new_record: Callable[..., CollectionRecord]) -> CollectionRecord:
    """A collection of one partition that exists."""
    made = new_record()
    await Catalog(redis).create(made)
    return made
