import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from services.index.store.connection import connect
from services.index.store.functions import LIBRARY_VERSION, ensure_functions, functions_source
from services.runtime.errors import WrongState
from tests.support.redis_server import RedisServer

SOURCE_DIGESTS = {
    1: "179fa7f2ebdc83c6c32fc73ba3139799307c4e93fe9068fcdbeeb944e37a8d1f",
    2: "04e88093e7b368033b502569bd1653876a2b238d82cd033bb6b90aa5faa45211",
    3: "17c127287e3ffabcdd2756df805f436675e6d11b3629ea7d26428a7a038a94c0",
}
"""SHA-256 of the library's text by version; a changed text needs a new version and a new line."""


def test_changed_functions_have_a_new_version() -> None:
    """Otherwise a Redis that holds the old functions would keep them after an upgrade."""
    assert hashlib.sha256(functions_source().encode()).hexdigest() == SOURCE_DIGESTS[LIBRARY_VERSION]


def test_tests_of_upgrades_use_what_was_released() -> None:
    """Otherwise partitions of the release before would be tested as nobody has them."""
    released = (Path(__file__).parent / "library_2.lua").read_bytes()
    assert hashlib.sha256(released).hexdigest() == SOURCE_DIGESTS[2]


def _library(version: int) -> str:
    return functions_source().replace(f"LIBRARY_VERSION = {LIBRARY_VERSION}", f"LIBRARY_VERSION = {version}")


@pytest.fixture
async def bare(own_server: RedisServer) -> AsyncIterator[Redis]:
    """A client of a server without our functions."""
    client = connect(own_server.settings)
    yield client
    await client.aclose()


async def test_functions_are_loaded_once_and_survive_a_restart(own_server: RedisServer, bare: Redis) -> None:
    """Otherwise writes would fail after a restart of Redis until somebody notices."""
    for _ in range(2):
        await ensure_functions(bare)
        assert await bare.fcall_ro("csr_version", 0) == LIBRARY_VERSION
    own_server.restart()
    restarted = connect(own_server.settings)
    assert await restarted.fcall_ro("csr_version", 0) == LIBRARY_VERSION
    await restarted.aclose()


async def test_older_functions_are_replaced(bare: Redis) -> None:
    """Otherwise an upgraded router would go on writing by the old rules."""
    await bare.function_load(_library(LIBRARY_VERSION - 1))
    await ensure_functions(bare)
    assert await bare.fcall_ro("csr_version", 0) == LIBRARY_VERSION


async def test_damaged_functions_are_replaced(bare: Redis) -> None:
    """Otherwise a bit that flips in the append-only file would change the rules that all later writes follow."""
    damaged = functions_source().replace("APPLIED", "BPPLIED")
    assert damaged != functions_source()
    await bare.function_load(damaged)
    await ensure_functions(bare)
    [library] = await bare.function_list("csr", withcode=True)
    assert functions_source().encode() in library


async def test_newer_functions_are_left_alone(bare: Redis) -> None:
    """Otherwise a router of an old release would break the new ones in a rolling upgrade."""
    await bare.function_load(_library(LIBRARY_VERSION + 1))
    with pytest.raises(WrongState, match="upgrade"):
        await ensure_functions(bare)
    assert await bare.fcall_ro("csr_version", 0) == LIBRARY_VERSION + 1


async def test_a_redis_that_evicts_keys_is_refused(bare: Redis) -> None:
    """Otherwise Redis would drop acknowledged documents when memory runs short."""
    await bare.config_set("maxmemory-policy", "allkeys-lru")
    with pytest.raises(WrongState, match="noeviction"):
        await ensure_functions(bare)


async def test_the_fsync_policy_is_told(bare: Redis) -> None:
    """Otherwise users could not see what an acknowledgement is worth."""
    assert (await ensure_functions(bare)).appendfsync == "always"
    await bare.config_set("appendfsync", "everysec")
    assert (await ensure_functions(bare)).appendfsync == "everysec"
    await bare.config_set("appendonly", "no")
    assert (await ensure_functions(bare)).appendfsync == "off"
