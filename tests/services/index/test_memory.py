"""The memory guard: a server that is full keeps what it has, and says so."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
from redis.asyncio import Redis

from services.index.memory import MemoryGuard, available_bytes, resident_bytes
from services.index.store.reports import read_reports
from services.runtime.errors import PartitionUnavailable
from tests.services.index.test_bad_days import eventually
from tests.services.index.world import World, place, random_code, search, status
from tests.support.index_server import IndexServerProcess
from tests.support.redis_server import RedisServer


def test_memory_is_that_of_this_process() -> None:
    """A guard that measures something else never holds, or always."""
    before = resident_bytes()
    assert 1 << 20 < before < available_bytes()
    ballast = np.ones(64 << 20, np.uint8)
    assert resident_bytes() - before > 48 << 20
    assert MemoryGuard(resident_bytes() // 2).full()
    assert not MemoryGuard(0).full()
    assert 0 < MemoryGuard(0).limit_bytes < available_bytes()
    del ballast


async def test_a_full_server_serves_what_it_has_and_takes_nothing_more(
    tmp_path: Path,
    frail_store: RedisServer,
    frail_client: Redis,
    frail_servers: list[IndexServerProcess],
    rng: np.random.Generator,
) -> None:
    """A collection that outgrows a server would have it killed, and with it all that it answers for."""
    world = await World.create(frail_client)
    await world.fill(rng, 40)
    queries = [random_code(rng)]
    full = IndexServerProcess(frail_store.url, tmp_path, "index-full", CSR_INDEX__MEMORY_BYTES="1000000")
    try:
        await place(frail_client, [full])
        await asyncio.to_thread(full.start)
        with pytest.raises(PartitionUnavailable, match="memory"):
            await search(full, world.record, queries)
        report = await status(full)
        assert report.memory_bytes > report.memory_limit_bytes == 1_000_000

        async def reported() -> bool:
            reports = await read_reports(frail_client, ["index-full", "nobody"])
            return "index-full" in reports and reports["index-full"].memory_bytes > 1_000_000

        await eventually(reported)
    finally:
        full.kill()
        await place(frail_client, frail_servers[:1])


async def test_a_server_that_fills_up_goes_on_answering_and_tells_how_far_behind_it_is(
    tmp_path: Path,
    frail_store: RedisServer,
    frail_client: Redis,
    frail_servers: list[IndexServerProcess],
    rng: np.random.Generator,
) -> None:
    """Writes that are not taken would look like writes that were lost."""
    probe = IndexServerProcess(frail_store.url, tmp_path, "index-filling")
    await place(frail_client, [probe])
    await asyncio.to_thread(probe.start)
    limit = (await status(probe)).memory_bytes + (24 << 20)
    probe.kill()
    filling = IndexServerProcess(frail_store.url, tmp_path, "index-filling", CSR_INDEX__MEMORY_BYTES=str(limit))
    try:
        await asyncio.to_thread(filling.start)
        world = await World.create(frail_client, partitions=1)
        queries = [random_code(rng)]
        await search(filling, world.record, queries)
        count, answer = 0, await search(filling, world.record, queries)
        while answer.staleness < 3.0:  # merges free memory again, so it is full for good only after a while
            await world.upsert({f"doc-{count + i}-{'x' * 100}": random_code(rng) for i in range(2_000)})
            count += 2_000
            assert count < 500_000
            answer = await search(filling, world.record, queries)
        assert answer.positions[0] < world.positions[0]
        assert answer.hits == world.expected(queries, answer.positions)

        async def reported() -> bool:
            reports = await read_reports(frail_client, ["index-filling"])
            return "index-filling" in reports and reports["index-filling"].lag_entries > 0

        await eventually(reported)
    finally:
        filling.kill()
        await place(frail_client, frail_servers[:1])
