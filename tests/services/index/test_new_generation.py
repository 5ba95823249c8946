"""A collection that gets another generation while a server answers for it."""

import asyncio
import time
from dataclasses import replace

import numpy as np
from redis.asyncio import Redis

from services.index.store.catalog import GenerationRecord
from services.index.store.keys import CATALOG_REVISION, COLLECTIONS, partition_keys
from tests.services.index.test_bad_days import eventually
from tests.services.index.world import HIDDEN_DIM, World, random_code, search, status
from tests.support.index_server import IndexServerProcess


async def test_a_partition_that_must_be_loaded_again_does_not_pass_for_fresh(
    shared_store: Redis, server: IndexServerProcess, rng: np.random.Generator
) -> None:
    """A receipt would say that nothing is missing, while no write is applied until the load for the new generation
    succeeds, which a damaged record can put off for ever."""
    world = await World.create(shared_store, partitions=1)
    code = random_code(rng)
    await world.upsert({"damaged": code, "kept": code})
    assert (await search(server, world.record, [code], positions=world.positions)).staleness < 1.0
    await shared_store.hset(partition_keys(world.record.collection_id, 0).docs, "damaged", b"?" * 40)
    building = GenerationRecord(2, "building", "model", 2, "cd" * 16, HIDDEN_DIM)
    record = replace(world.record, generations=(*world.record.generations, building), revision=2)
    await shared_store.hset(COLLECTIONS, record.name, record.to_json())
    await shared_store.incr(CATALOG_REVISION)

    async def must_be_loaded() -> bool:
        [partition] = (await status(server, record.collection_id)).partitions
        return bool(partition.problem)

    await eventually(must_be_loaded)
    await world.upsert({"new": code})
    acknowledged = time.monotonic()
    await asyncio.sleep(1.5)
    answer = await search(server, record, [code])
    assert "new" not in dict(answer.hits[0])
    assert answer.staleness > time.monotonic() - acknowledged - 0.5
