"""Servers that start from snapshots: real processes, killed and started again."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from redis.asyncio import Redis

from csr.v1 import shard_pb2
from services.index.store.keys import partition_keys, partition_of
from services.runtime.errors import PartitionUnavailable
from tests.services.index.test_bad_days import eventually
from tests.services.index.world import World, ask, place, random_code, search
from tests.support.index_server import IndexServerProcess
from tests.support.redis_server import RedisServer


@pytest.fixture
async def server(
    tmp_path: Path, frail_store: RedisServer, frail_client: Redis, frail_servers: list[IndexServerProcess]
) -> AsyncIterator[IndexServerProcess]:
    """A server that takes snapshots twice a second and owns everything."""
    one = IndexServerProcess(
        frail_store.url,
        tmp_path,
        "index-snapshots",
        CSR_INDEX__SNAPSHOT_DIR=str(tmp_path / "snapshots"),
        CSR_INDEX__SNAPSHOT_SECONDS="0.5",
    )
    await place(frail_client, [one])
    await asyncio.to_thread(one.start)
    yield one
    one.kill()
    await place(frail_client, frail_servers[:1])


def folder_of(server: IndexServerProcess, world: World) -> Path:
    """Return where a server keeps the snapshots of a collection."""
    return server.log.parent / "snapshots" / server.name / world.record.collection_id


async def filled(client: Redis, server: IndexServerProcess, rng: np.random.Generator, count: int = 80) -> World:
    """Return a collection of which the server has a snapshot that covers everything."""
    world = await World.create(client)
    await world.fill(rng, count)
    await search(server, world.record, [random_code(rng)], positions=world.positions)

    async def saved() -> bool:
        audit = shard_pb2.AuditPartitionsRequest(collection_id=world.record.collection_id, partitions=range(4))
        answer = await ask(server, "AuditPartitions", audit)
        assert all(one.snapshot_problem == "" for one in answer.partitions)
        return all(
            one.HasField("snapshot") and one.snapshot.lsn == world.positions[one.partition] for one in answer.partitions
        )

    await eventually(saved)
    return world


async def exact(server: IndexServerProcess, world: World, rng: np.random.Generator) -> None:
    """Check that a server answers as the oracle does, and holds what the store holds."""
    queries = [random_code(rng) for _ in range(5)]
    answer = await search(server, world.record, queries, positions=world.positions)
    assert answer.hits == world.expected(queries, world.positions)
    audit = shard_pb2.AuditPartitionsRequest(collection_id=world.record.collection_id, partitions=range(4))
    for one in (await ask(server, "AuditPartitions", audit)).partitions:
        meta = await world.redis.hgetall(partition_keys(world.record.collection_id, one.partition).meta)
        stored = (int(meta[b"lsn"]), int(meta[b"documents"]), meta[b"digest"].decode())
        assert (one.memory.lsn, one.memory.documents, one.memory.state_digest) == stored


async def test_a_killed_server_goes_on_from_its_snapshot(
    frail_client: Redis, server: IndexServerProcess, rng: np.random.Generator
) -> None:
    """Every restart would read everything from the store again, or answer from what was true a while ago."""
    world = await filled(frail_client, server, rng)
    for round in range(3):
        server.kill()
        await world.upsert({f"doc-{i}": random_code(rng) for i in rng.choice(80, 20, replace=False)})
        await world.delete(f"doc-{i}" for i in rng.choice(80, 10, replace=False))
        await asyncio.to_thread(server.start)
        assert server.metric("csr_index_snapshots_restored_total") >= 1
        assert server.metric("csr_index_snapshots_refused_total") == 0
        await exact(server, world, rng)
        if round:
            await asyncio.sleep(0.7)  # perhaps long enough for another snapshot, perhaps in the middle of one


async def test_a_stopped_server_takes_a_snapshot(
    frail_client: Redis, tmp_path: Path, server: IndexServerProcess, rng: np.random.Generator
) -> None:
    """After an upgrade every server would replay all that was written since its last snapshot."""
    server.kill()
    server.set(CSR_INDEX__SNAPSHOT_SECONDS="600")
    await asyncio.to_thread(server.start)
    world = await World.create(frail_client)
    await world.fill(rng, 40)
    await search(server, world.record, [random_code(rng)], positions=world.positions)
    assert not folder_of(server, world).exists()
    assert await asyncio.to_thread(server.stop) == 0
    assert [path.name for path in folder_of(server, world).glob("*.json")] == ["1.json"]
    await asyncio.to_thread(server.start)
    await exact(server, world, rng)
    assert server.metric("csr_index_entries_applied_total") == 0


async def test_a_damaged_snapshot_is_replaced_by_a_load(
    frail_client: Redis, server: IndexServerProcess, rng: np.random.Generator
) -> None:
    """A bad sector would become wrong answers, or a server that does not start any more."""
    world = await filled(frail_client, server, rng)
    server.kill()
    for path in folder_of(server, world).rglob("*.npy"):
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    await asyncio.to_thread(server.start)
    assert server.metric("csr_index_snapshots_refused_total") >= 1
    await exact(server, world, rng)


async def test_a_snapshot_that_is_too_old_is_not_used(
    frail_client: Redis, server: IndexServerProcess, rng: np.random.Generator
) -> None:
    """Documents whose deletion nobody remembers any more would come back."""
    world = await filled(frail_client, server, rng)
    server.kill()
    server.set(CSR_LOG__TOMBSTONE_SECONDS="1")
    await asyncio.sleep(1.5)
    await asyncio.to_thread(server.start)
    assert server.metric("csr_index_snapshots_restored_total") == 0
    assert server.metric("csr_index_snapshots_refused_total") >= 1
    await exact(server, world, rng)


async def test_a_snapshot_whose_log_is_gone_is_replaced_by_a_load(
    frail_client: Redis, server: IndexServerProcess, rng: np.random.Generator
) -> None:
    """A server that was away for a long time would miss what was trimmed meanwhile."""
    world = await filled(frail_client, server, rng)
    server.kill()
    await world.upsert({f"doc-{i}": random_code(rng) for i in range(80)})
    for partition in range(4):
        log = partition_keys(world.record.collection_id, partition).log
        await frail_client.xtrim(log, minid=f"{world.positions[partition] - 1}-0", approximate=False)
    await asyncio.to_thread(server.start)
    reloads = server.metric("csr_index_partition_reloads_total")
    assert reloads >= 4
    await exact(server, world, rng)


async def test_a_snapshot_of_writes_that_the_store_lost_is_never_answered_from(
    frail_client: Redis, server: IndexServerProcess, rng: np.random.Generator
) -> None:
    """After a lossy failover a restarted server would answer with writes that were lost and written over."""
    world = await World.create(frail_client)
    await world.fill(rng, 40)
    kept = {}
    for partition in range(4):
        for key in partition_keys(world.record.collection_id, partition).all():
            kept[key] = await frail_client.dump(key)
    remembered = {partition: dict(entries) for partition, entries in world.history.items()}
    lost = {f"lost-{i}": random_code(rng) for i in range(20)}
    await world.upsert(lost)
    await search(server, world.record, [random_code(rng)], positions=world.positions)
    assert await asyncio.to_thread(server.stop) == 0
    for key, value in kept.items():
        await frail_client.delete(key)
        if value is not None:
            await frail_client.restore(key, 0, value)
    world.history.update(remembered)
    await asyncio.to_thread(server.start)
    answer = await search(server, world.record, list(lost.values()))
    assert answer.positions == world.positions
    await exact(server, world, rng)


async def test_snapshots_of_two_servers_share_a_folder(
    tmp_path: Path, frail_store: RedisServer, frail_client: Redis, server: IndexServerProcess, rng: np.random.Generator
) -> None:
    """On one machine servers would start from each other's snapshots, which lack their partitions."""
    world = await filled(frail_client, server, rng)
    other = IndexServerProcess(
        frail_store.url, tmp_path, "index-other", CSR_INDEX__SNAPSHOT_DIR=str(tmp_path / "snapshots")
    )
    try:
        await place(frail_client, [other])
        await asyncio.to_thread(other.start)
        await exact(other, world, rng)
        assert other.metric("csr_index_snapshots_restored_total") == 0
    finally:
        other.kill()


async def test_a_server_that_starts_with_its_memory_full_serves_what_its_snapshot_has(
    frail_client: Redis, server: IndexServerProcess, rng: np.random.Generator
) -> None:
    """A restart of a server that is full would end in one that never answers again, although it did a moment ago."""
    world = await filled(frail_client, server, rng)
    server.kill()
    await world.upsert({"later": random_code(rng)})
    behind = partition_of("later", world.record.partitions)
    level = sorted(set(range(world.record.partitions)) - {behind})
    server.set(CSR_INDEX__MEMORY_BYTES="1000000")
    await asyncio.to_thread(server.start)
    queries = [random_code(rng) for _ in range(5)]
    answer = await search(server, world.record, queries, level)
    assert answer.positions == {partition: world.positions[partition] for partition in level}
    assert answer.hits == world.expected(queries, answer.positions)
    with pytest.raises(PartitionUnavailable, match="memory is full"):
        await search(server, world.record, queries, [behind])
