"""A collection that a server cannot open, beside others."""

from dataclasses import replace

import numpy as np
from redis.asyncio import Redis

from services.index.store.keys import CATALOG_REVISION, COLLECTIONS
from tests.services.index.world import World, random_code, search
from tests.support.index_server import IndexServerProcess


async def test_a_collection_that_cannot_be_opened_keeps_no_other_one_out(
    shared_store: Redis, server: IndexServerProcess, rng: np.random.Generator
) -> None:
    """One bad record would keep every server from all that is created, deleted or placed after it, and every server
    that starts from becoming ready."""
    world = await World.create(shared_store)
    bad = replace(world.record, name="a-too-wide", collection_id="f" * 16, k_max=1 << 20)
    await shared_store.hset(COLLECTIONS, bad.name, bad.to_json())
    try:
        await shared_store.incr(CATALOG_REVISION)
        created = await World.create(shared_store, "b-created-after")
        await created.fill(rng, 20)
        queries = [random_code(rng)]
        answer = await search(server, created.record, queries, positions=created.positions)
        assert answer.hits == created.expected(queries, created.positions)
    finally:
        await shared_store.hdel(COLLECTIONS, bad.name)
        await shared_store.incr(CATALOG_REVISION)
