"""Index servers on bad days: processes killed, logs cut, corrupted and rewound. Real Redis, real processes."""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Sequence

import numpy as np
import pytest
from redis.asyncio import Redis

from services.index.store.entry import QuantisedCode
from services.index.store.keys import partition_keys
from services.index.store.placement import read_placement
from services.runtime.errors import DeadlineSpent, PartitionUnavailable, WrongOwner
from tests.services.index.world import Hits, World, place, random_code, search, status
from tests.support.index_server import IndexServerProcess
from tests.support.redis_server import RedisServer

HEALING_SECONDS_MAX = 10.0


async def eventually(holds: Callable[[], Awaitable[bool]]) -> None:
    """Wait until something holds, or fail."""
    deadline = time.monotonic() + HEALING_SECONDS_MAX
    while not await holds():
        assert time.monotonic() < deadline, "did not heal"
        await asyncio.sleep(0.05)


async def search_until_answered(server: IndexServerProcess, world: World, queries: Sequence[QuantisedCode]) -> Hits:
    """Search as a caller does that tries again while partitions move or load."""
    answers: list[Hits] = []

    async def answered() -> bool:
        try:
            answers.append((await search(server, world.record, queries, positions=world.positions)).hits)
        except (WrongOwner, PartitionUnavailable):
            return False
        return True

    await eventually(answered)
    return answers[0]


def merged(parts: list[Hits], top_n: int) -> Hits:
    """Merge answers of several servers as a router does."""
    return [
        sorted(itertools.chain(*lists), key=lambda hit: (-hit[1], hit[0].encode()))[:top_n]
        for lists in zip(*parts, strict=True)
    ]


async def test_a_search_with_positions_does_not_wait_for_the_next_poll(
    frail_client: Redis, frail_servers: list[IndexServerProcess], rng: np.random.Generator
) -> None:
    """Read your writes would cost up to the longest polling interval, here two seconds, each time."""
    world = await World.create(frail_client)
    code = random_code(rng)
    await search(frail_servers[0], world.record, [code])
    waits = []
    for i in range(5):
        await asyncio.sleep(0.3)  # without a search the polls are further and further apart
        await world.upsert({f"new-{i}": code})
        started = time.perf_counter()
        answer = await search(frail_servers[0], world.record, [code], positions=world.positions)
        waits.append(time.perf_counter() - started)
        assert f"new-{i}" in dict(answer.hits[0])
    assert sorted(waits)[2] < 0.5


async def test_a_killed_server_answers_as_before_when_it_is_back(
    frail_client: Redis, frail_servers: list[IndexServerProcess], rng: np.random.Generator
) -> None:
    """After a crash users would get other answers than before, or a server that is not complete yet."""
    [server, *_] = frail_servers
    world = await World.create(frail_client)
    await world.fill(rng, 120)
    queries = [random_code(rng) for _ in range(5)]
    before = await search(server, world.record, queries, positions=world.positions)
    server.kill()
    await world.upsert({"while-away": queries[0]})
    server.start()
    after = await search(server, world.record, queries)
    assert before.hits == world.expected(queries, before.positions)
    assert after.positions == world.positions, "SERVING before it had caught up"
    assert after.hits == world.expected(queries, world.positions)
    assert after.hits[0][0][0] == "while-away"


async def test_reads_go_on_without_redis_and_writes_are_followed_when_it_is_back(
    frail_store: RedisServer,
    frail_client: Redis,
    frail_servers: list[IndexServerProcess],
    rng: np.random.Generator,
) -> None:
    """A crash of Redis would take search down with it, or leave servers behind for good."""
    [server, *_] = frail_servers
    world = await World.create(frail_client)
    await world.fill(rng, 60)
    queries = [random_code(rng) for _ in range(3)]
    before = await search(server, world.record, queries, positions=world.positions)
    frail_store.kill()
    for _ in range(10):
        assert await search(server, world.record, queries) == before
        await asyncio.sleep(0.05)
    with pytest.raises(DeadlineSpent):
        await search(server, world.record, queries, positions={0: world.positions[0] + 1}, timeout=0.3)
    assert server.serving()
    frail_store.start()
    await world.upsert({"after": queries[0]})
    answer = await search(server, world.record, queries, positions=world.positions)
    assert answer.hits == world.expected(queries, world.positions)


async def test_two_servers_cover_every_partition_once_and_answer_like_one(
    frail_client: Redis, frail_servers: list[IndexServerProcess], rng: np.random.Generator
) -> None:
    """Adding a server would lose or double documents, or change scores and order."""
    world = await World.create(frail_client, partitions=16)
    await world.fill(rng, 200)
    queries = [random_code(rng) for _ in range(5)]
    alone = await search(frail_servers[0], world.record, queries, positions=world.positions)
    frail_servers[1].start()
    await place(frail_client, frail_servers[:2])
    term = (await read_placement(frail_client)).term

    async def moved() -> bool:
        return all([(await status(server)).term == term for server in frail_servers[:2]])

    await eventually(moved)
    held = [
        [partition.partition for partition in (await status(server, world.record.collection_id)).partitions]
        for server in frail_servers[:2]
    ]
    assert sorted(held[0] + held[1]) == list(range(16))
    assert all(held)
    parts = [
        (await search(server, world.record, queries, partitions, world.positions)).hits
        for server, partitions in zip(frail_servers, held, strict=False)
    ]
    assert merged(parts, 10) == alone.hits == world.expected(queries, world.positions)
    with pytest.raises(WrongOwner):
        await search(frail_servers[0], world.record, queries, held[1])
    await place(frail_client, frail_servers[:1])
    back = await search_until_answered(frail_servers[0], world, queries)
    frail_servers[1].kill()
    assert back == alone.hits


async def rewrite_log(
    client: Redis, world: World, partition: int, change: Callable[[int, dict[bytes, bytes]], dict[bytes, bytes]]
) -> None:
    """Write the log of a partition anew, entry by entry."""
    log = partition_keys(world.record.collection_id, partition).log
    entries = await client.xrange(log)
    await client.delete(log)
    for number, (stream_id, fields) in enumerate(entries):
        await client.xadd(log, change(number - len(entries), fields), id=stream_id)


def flip_last_byte_of(field: bytes) -> Callable[[int, dict[bytes, bytes]], dict[bytes, bytes]]:
    """Corrupt one field of the last entry."""

    def change(from_end: int, fields: dict[bytes, bytes]) -> dict[bytes, bytes]:
        value = fields[field]
        return fields if from_end < -1 else {**fields, field: value[:-1] + bytes([value[-1] ^ 1])}

    return change


@pytest.mark.parametrize("field", [b"r", b"c"], ids=["record", "chain"])
async def test_a_corrupted_entry_is_refused_and_the_partition_reloaded(
    frail_client: Redis, frail_servers: list[IndexServerProcess], rng: np.random.Generator, field: bytes
) -> None:
    """A flipped bit in Redis would be served as a document, or stop the server from following for good."""
    [server, *_] = frail_servers
    world = await World.create(frail_client, partitions=1)
    await world.fill(rng, 40)
    queries = [random_code(rng) for _ in range(3)]
    await search(server, world.record, queries, positions=world.positions)
    refused = server.metric("csr_index_refused_entries_total")
    reloads = server.metric("csr_index_partition_reloads_total")
    server.pause()
    await world.upsert({f"new-{i}": random_code(rng) for i in range(10)})
    await rewrite_log(frail_client, world, 0, flip_last_byte_of(field))
    server.resume()
    answer = await search_until_answered(server, world, queries)
    assert answer == world.expected(queries, world.positions)
    assert server.metric("csr_index_refused_entries_total") == refused + 1
    assert server.metric("csr_index_partition_reloads_total") == reloads + 1
    await world.upsert({"later": queries[0]})
    assert await search_until_answered(server, world, queries) == world.expected(queries, world.positions)
    assert server.metric("csr_index_partition_reloads_total") == reloads + 1, "the log is not followed any more"


async def test_a_trimmed_log_is_replaced_by_a_load(
    frail_client: Redis, frail_servers: list[IndexServerProcess], rng: np.random.Generator
) -> None:
    """A server that was away for longer than the log reaches would miss documents for ever."""
    [server, *_] = frail_servers
    world = await World.create(frail_client, partitions=1)
    await world.fill(rng, 40)
    queries = [random_code(rng) for _ in range(3)]
    await search(server, world.record, queries, positions=world.positions)
    server.pause()
    await world.upsert({f"new-{i}": random_code(rng) for i in range(20)})
    await world.delete(f"doc-{i}" for i in range(1, 20, 2))
    log = partition_keys(world.record.collection_id, 0).log
    await frail_client.xtrim(log, minid=f"{world.positions[0] - 2}-0", approximate=False)
    server.resume()
    answer = await search(server, world.record, queries, positions=world.positions)
    assert answer.hits == world.expected(queries, world.positions)


async def test_a_rewound_log_is_noticed_and_nothing_is_answered_at_its_old_positions(
    frail_client: Redis, frail_servers: list[IndexServerProcess], rng: np.random.Generator
) -> None:
    """After a lossy failover, servers would answer with writes that the store has lost and will write over."""
    [server, *_] = frail_servers
    world = await World.create(frail_client, partitions=1)
    await world.fill(rng, 30)
    keys = partition_keys(world.record.collection_id, 0)
    queries = [random_code(rng) for _ in range(3)]
    kept = [(key, await frail_client.dump(key)) for key in keys.all() if await frail_client.exists(key)]
    remembered = {partition: dict(entries) for partition, entries in world.history.items()}
    await world.upsert({"lost": queries[0]})
    assert (await search(server, world.record, queries, positions=world.positions)).hits[0][0][0] == "lost"
    lost_positions = world.positions
    async with frail_client.pipeline() as failover:
        for key, value in kept:
            failover.restore(key, 0, value, replace=True)
        await failover.execute()
    world.history.update(remembered)

    async def rewound() -> bool:
        try:
            return (await search(server, world.record, queries)).positions != lost_positions
        except PartitionUnavailable:
            return False

    await eventually(rewound)
    answer = await search(server, world.record, queries)
    assert answer.positions == world.positions
    assert answer.hits == world.expected(queries, world.positions)
    await world.upsert({"rewritten": queries[1]})
    answer = await search(server, world.record, queries, positions=world.positions)
    assert answer.hits == world.expected(queries, world.positions)


async def test_an_emptied_redis_does_not_empty_the_servers(
    frail_client: Redis, frail_servers: list[IndexServerProcess], rng: np.random.Generator
) -> None:
    """When Redis loses everything, the servers hold the last copy; dropping it would make the loss final."""
    [server, *_] = frail_servers
    world = await World.create(frail_client)
    await world.fill(rng, 30)
    queries = [random_code(rng) for _ in range(3)]
    before = await search(server, world.record, queries, positions=world.positions)
    await frail_client.flushall()
    await asyncio.sleep(1.5)  # more than one look at the catalogue
    assert await search(server, world.record, queries) == before
    await place(frail_client, frail_servers[:1])
