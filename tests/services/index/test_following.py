"""Following the logs of many partitions: at once when something is written, and at almost no cost when nothing is."""

import asyncio
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from redis.asyncio import Redis

from services.index.store.connection import connect
from services.runtime.redis_binary import find_redis_server
from tests.services.index.test_bad_days import eventually
from tests.services.index.world import World, place, random_code, search, status
from tests.support.index_server import IndexServerProcess
from tests.support.measured import Measured
from tests.support.redis_server import RedisServer

COLLECTIONS = 1_000
START_SECONDS_MAX = 60.0
COMMANDS_PER_SECOND_MAX = 1_000
"""Of 4,000 partitions polled every 50 ms it would be 160,000."""

CORE_SHARE_MAX = 0.3


async def reached(server: IndexServerProcess, world: World) -> bool:
    """Return whether a server shows the last write to every partition, without asking it to look."""
    held = (await status(server, world.record.collection_id)).partitions
    return {one.partition: one.lsn for one in held}.items() >= world.positions.items()


async def commands(client: Redis) -> int:
    """Return how many commands Redis has processed."""
    return int((await client.info("stats"))["total_commands_processed"])


@pytest.mark.timeout(600)
async def test_a_thousand_collections_on_one_server(
    tmp_path: Path, rng: np.random.Generator, measured: Measured
) -> None:
    """A stack with many small collections would start for minutes, poll Redis to death, or see writes late."""
    store = RedisServer(find_redis_server(), tmp_path / "redis")
    server = IndexServerProcess(store.url, tmp_path)
    store.start()
    try:
        async with connect(store.settings) as client:
            await place(client, [server])
            worlds = [await World.create(client, f"c{i}") for i in range(COLLECTIONS)]
            await asyncio.gather(*(world.upsert({"a": random_code(rng)}) for world in worlds[::50]))
            started = time.monotonic()
            await asyncio.to_thread(server.start)
            opened = time.monotonic() - started
            assert opened < START_SECONDS_MAX
            assert len((await status(server)).partitions) == 4 * COLLECTIONS
            assert server.process is not None
            process = psutil.Process(server.process.pid)
            before, since, busy = await commands(client), time.monotonic(), sum(process.cpu_times()[:2])
            await asyncio.sleep(5)
            busy = (sum(process.cpu_times()[:2]) - busy) / (time.monotonic() - since)
            rate = (await commands(client) - before) / (time.monotonic() - since)
            assert busy < CORE_SHARE_MAX
            assert rate < COMMANDS_PER_SECOND_MAX
            waits = []
            for world in worlds[::100]:
                await world.upsert({"b": random_code(rng)})
                written = time.monotonic()
                while not await reached(server, world):
                    assert time.monotonic() - written < 10
                waits.append(time.monotonic() - written)
            assert sorted(waits)[len(waits) // 2] < 0.25
            answer = await search(server, worlds[100].record, [random_code(rng)])
            assert answer.positions == {**dict.fromkeys(range(4), 0), **worlds[100].positions}
            measured(
                f"open after {opened:.1f} s, idle {rate:.0f} commands/s and {busy:.0%} of a core, "
                f"visible after {sorted(waits)[5]:.4f} s"
            )
    finally:
        server.kill()
        store.kill()


async def test_a_lost_announcement_connection_is_replaced(
    frail_client: Redis, frail_servers: list[IndexServerProcess], rng: np.random.Generator
) -> None:
    """After a network error a server would see writes a minute late, or never, and not know it."""
    [server, *_] = frail_servers
    world = await World.create(frail_client)
    await world.upsert({"a": random_code(rng)})
    await search(server, world.record, [random_code(rng)], positions=world.positions)

    async def killed() -> bool:
        return int(await frail_client.client_kill_filter(_type="pubsub")) > 0

    for i in range(3):
        await eventually(killed)
        await world.upsert({f"b{i}": random_code(rng)})
        await eventually(lambda: reached(server, world))

        async def fresh() -> bool:
            return (await search(server, world.record, [random_code(rng)])).staleness < 1.0

        await eventually(fresh)


async def test_servers_that_may_not_subscribe_poll(tmp_path: Path, rng: np.random.Generator) -> None:
    """Where a managed Redis forbids Pub/Sub, nothing that is written would ever be found."""
    store = RedisServer(find_redis_server(), tmp_path / "redis")
    store.start()
    server = IndexServerProcess(store.url.replace("127.0.0.1", "deaf:secret@127.0.0.1"), tmp_path)
    try:
        async with connect(store.settings) as client:
            await client.execute_command("ACL", "SETUSER", "deaf", "on", ">secret", "~*", "+@all", "-subscribe")
            await place(client, [server])
            await asyncio.to_thread(server.start)
            world = await World.create(client)
            for i in range(3):
                await world.upsert({f"a{i}": random_code(rng)})
                await eventually(lambda: reached(server, world))
            answer = await search(server, world.record, [random_code(rng)])
            assert answer.staleness < 2.0
    finally:
        server.kill()
        store.kill()


async def test_answers_say_how_stale_they_are(
    frail_store: RedisServer,
    frail_client: Redis,
    frail_servers: list[IndexServerProcess],
    rng: np.random.Generator,
) -> None:
    """While the store is away, callers could not tell answers of a minute ago from those of now."""
    [server, *_] = frail_servers
    world = await World.create(frail_client)
    await world.fill(rng, 20)
    queries = [random_code(rng)]
    await search(server, world.record, queries, positions=world.positions)
    await asyncio.sleep(1.0)
    assert (await search(server, world.record, queries)).staleness < 1.0
    frail_store.pause()
    try:
        await asyncio.sleep(3.0)
        answer = await search(server, world.record, queries)
        assert 2.0 < answer.staleness < 10.0
        assert answer.hits == world.expected(queries, world.positions)
    finally:
        frail_store.resume()

    async def fresh() -> bool:
        return (await search(server, world.record, queries)).staleness < 1.0

    await eventually(fresh)
    [held, *_] = (await status(server, world.record.collection_id)).partitions
    assert held.staleness_seconds < 1.0
