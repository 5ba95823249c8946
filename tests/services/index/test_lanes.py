import asyncio
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from services.index.core.search import Hit
from services.index.generation import GenerationIndex, Published, SearchOptions
from services.index.lanes import QUERIES_PER_TURN, Lanes
from services.index.store.entry import DocumentBody
from services.runtime.codec import RaggedCodes
from services.runtime.errors import DeadlineSpent
from tests.services.index.test_generation import ALL, changes, new_index
from tests.services.index.world import as_ragged, random_code

PARTITIONS = frozenset({0})


class GatedIndex(GenerationIndex):
    """A real index whose searches wait until the gate opens; notes how many queries each turn brought."""

    def __init__(self) -> None:
        empty = new_index()
        super().__init__(empty.record, 8, {})
        self.turns: list[int] = []
        self.gate = threading.Event()

    def search(
        self,
        published: Published,
        latents: NDArray[np.uint16],
        weights: NDArray[np.float32],
        options: SearchOptions,
        partitions: frozenset[int],
    ) -> list[list[Hit]]:
        """Wait, then search."""
        self.turns.append(len(latents))
        assert self.gate.wait(10)
        return super().search(published, latents, weights, options, partitions)


@pytest.fixture
def lanes() -> Iterator[Lanes]:
    """One thread that searches."""
    one = Lanes(1, 60.0)
    yield one
    one.close()


def queries(rng: np.random.Generator, count: int) -> RaggedCodes:
    """Return random queries."""
    return as_ragged([random_code(rng) for _ in range(count)])


def soon() -> float:
    """Return a deadline that no test reaches."""
    return asyncio.get_running_loop().time() + 30


async def test_hits_are_in_the_order_of_the_queries(rng: np.random.Generator) -> None:
    """Queries of a batch would get each other's answers."""
    codes = [random_code(rng) for _ in range(23)]
    index = new_index()
    index.write(changes({0: {f"doc-{i}": DocumentBody(codes={1: code}) for i, code in enumerate(codes)}}))
    index.publish({0: len(codes)}, PARTITIONS)
    one_by_one = [index.search(index.published, *as_ragged([code]).padded(), ALL, PARTITIONS)[0] for code in codes]
    for threads in (1, 3):
        lanes = Lanes(threads, 60.0)
        assert await lanes.search(index, index.published, as_ragged(codes), ALL, PARTITIONS, soon()) == one_by_one
        lanes.close()


async def test_a_cancelled_request_takes_no_further_turn(lanes: Lanes, rng: np.random.Generator) -> None:
    """Work for callers who are gone would slow down those who wait."""
    index = GatedIndex()
    request = asyncio.create_task(lanes.search(index, index.published, queries(rng, 40), ALL, PARTITIONS, soon()))
    while not index.turns:
        await asyncio.sleep(0.01)
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    index.gate.set()
    await lanes.search(index, index.published, queries(rng, 1), ALL, PARTITIONS, soon())
    assert index.turns == [QUERIES_PER_TURN, 1]


async def test_a_small_request_does_not_wait_for_all_of_a_large_one(lanes: Lanes, rng: np.random.Generator) -> None:
    """One batch of 256 queries would hold up every single query behind it."""
    index = GatedIndex()
    large = asyncio.create_task(lanes.search(index, index.published, queries(rng, 40), ALL, PARTITIONS, soon()))
    while not index.turns:
        await asyncio.sleep(0.01)
    small = asyncio.create_task(lanes.search(index, index.published, queries(rng, 1), ALL, PARTITIONS, soon()))
    await asyncio.sleep(0.05)
    index.gate.set()
    await asyncio.gather(large, small)
    assert index.turns[1] == 1
    assert sum(index.turns) == 41


async def test_nothing_is_begun_after_the_deadline(lanes: Lanes, rng: np.random.Generator) -> None:
    """A server under load would work on answers that nobody waits for any more."""
    index = GatedIndex()
    index.gate.set()
    past = asyncio.get_running_loop().time() - 1
    with pytest.raises(DeadlineSpent):
        await lanes.search(index, index.published, queries(rng, 9), ALL, PARTITIONS, past)
    assert index.turns == []
