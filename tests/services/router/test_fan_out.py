import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.index.store.placement import IndexServer, PlacementTable
from services.router.concurrently import concurrently
from services.router.fan_out import partitions_by_server
from services.runtime.errors import PartitionUnavailable


@given(st.integers(1, 5), st.integers(1, 256), st.text("0123456789abcdef", min_size=16, max_size=16))
def test_every_partition_is_asked_of_its_owner_once(servers: int, partitions: int, collection_id: str) -> None:
    """A partition would be left out of answers, or counted twice."""
    table = PlacementTable(1, 1, tuple(IndexServer(f"index-{number}", f"host:{number}") for number in range(servers)))
    owned = partitions_by_server(table, collection_id, partitions)
    assert sorted(number for numbers in owned.values() for number in numbers) == list(range(partitions))
    for server, numbers in owned.items():
        assert list(numbers) == sorted(numbers)
        assert all(table.owner(collection_id, number) == server for number in numbers)


async def test_the_first_failure_ends_the_wait_for_others() -> None:
    """A search that cannot succeed any more would wait for the slowest server."""
    cancelled = asyncio.Event()

    async def slow() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async def failing() -> None:
        raise PartitionUnavailable("index-1")

    with pytest.raises(PartitionUnavailable, match="index-1"):
        async with asyncio.timeout(5):
            await concurrently([slow(), failing()])
    assert cancelled.is_set()


async def test_results_come_in_the_order_of_calls() -> None:
    """Answers of two servers, or two parts of a batch, would be exchanged."""

    async def after(seconds: float, result: int) -> int:
        await asyncio.sleep(seconds)
        return result

    assert await concurrently(after(0.03 - 0.01 * number, number) for number in range(3)) == [0, 1, 2]
