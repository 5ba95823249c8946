"""The loader, against a real Redis: what it does with partitions that leave while it is at work."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor

import numpy as np
import pytest
from redis.asyncio import Redis

from services.index.collection import CollectionIndex
from services.index.grown import GrownLogs
from services.index.loads import Loader
from services.index.memory import MemoryGuard
from tests.services.index.world import World


@pytest.fixture
def executor() -> Iterator[Executor]:
    """The thread that applies changes."""
    with ThreadPoolExecutor(1) as pool:
        yield pool


@pytest.fixture
def grown() -> GrownLogs:
    """Where the loader names every log that it has loaded."""
    return GrownLogs()


@pytest.fixture
async def loader(shared_store: Redis, grown: GrownLogs) -> AsyncIterator[Loader]:
    """A loader that runs."""
    made = Loader(shared_store, "test-loads", MemoryGuard(0), grown)
    running = asyncio.create_task(made.run())
    yield made
    running.cancel()
    await asyncio.wait([running])


def cancelled_first(loader: Loader, collection: CollectionIndex) -> None:
    """Another loop has the partitions loaded just after Ownership had that stopped."""
    loader.cancel(collection.held.values())
    loader.start(collection)


async def begun_first(loader: Loader, collection: CollectionIndex) -> None:
    """Ownership has the loads stopped while small partitions are being read."""
    loader.start(collection)
    await asyncio.sleep(0)
    loader.cancel(collection.held.values())


@pytest.mark.parametrize("begin", [cancelled_first, begun_first])
async def test_a_partition_that_leaves_meanwhile_is_not_loaded_for_ever(
    shared_store: Redis,
    loader: Loader,
    grown: GrownLogs,
    executor: Executor,
    rng: np.random.Generator,
    begin: Callable[[Loader, CollectionIndex], object],
) -> None:
    """After a change of placement, a server would read what it no longer has from Redis again and again, and have no
    turn left for what it was given."""
    world = await World.create(shared_store)
    await world.fill(rng, 20)
    collection = CollectionIndex(world.record, executor)
    await collection.update(world.record, frozenset({0, 1, 2, 3}))
    done = begin(loader, collection)
    if asyncio.iscoroutine(done):
        await done
    await collection.update(world.record, frozenset())
    await asyncio.sleep(0.3)  # what had begun ends
    grown.take()
    await asyncio.sleep(0.3)
    assert not grown
