"""What a router does when index servers say that they are overloaded: the servers here only say so."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest

from csr.v1 import search_pb2, shard_pb2, shard_pb2_grpc
from services.index.store.catalog import CollectionRecord
from services.index.store.placement import IndexServer, PlacementTable
from services.router.deadline import Deadline
from services.router.fan_out import FanOut, PartitionQuery
from services.router.index_servers import IndexServers
from services.runtime.codec import RaggedCodes, codes_to_proto
from services.runtime.errors import Overloaded
from services.runtime.lifecycle import RequestInterceptor
from tests.services.router.corpus import FINGERPRINT, random_codes


class Busy(shard_pb2_grpc.ShardServiceServicer):
    """Answers nothing found up to a level, and that it is overloaded above it."""

    def __init__(self, k_docs_max: int) -> None:
        self.k_docs_max = k_docs_max
        self.asked: list[tuple[int, int]] = []

    async def SearchPartitions(  # noqa: N802
        self, request: shard_pb2.SearchPartitionsRequest, context: Any
    ) -> shard_pb2.SearchPartitionsResponse:
        """Answer by level."""
        self.asked.append((request.k_query, request.k_docs))
        if request.k_docs > self.k_docs_max:
            raise Overloaded("much to do", retry_seconds=2.5)
        return shard_pb2.SearchPartitionsResponse(
            results=[shard_pb2.ShardHits()] * request.codes.count,
            positions=[search_pb2.PartitionPosition(partition=partition) for partition in request.partitions],
            staleness_seconds=float(request.k_docs),
        )


@pytest.fixture
async def servers() -> AsyncIterator[tuple[list[Busy], PlacementTable]]:
    """Two of them, and where they listen."""
    busy, running, listed = [Busy(256), Busy(8)], [], []
    for number, servicer in enumerate(busy):
        server = grpc.aio.server(interceptors=[RequestInterceptor(concurrent_requests=64)])
        shard_pb2_grpc.add_ShardServiceServicer_to_server(servicer, server)
        listed.append(IndexServer(f"index-{number}", f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"))
        await server.start()
        running.append(server)
    yield busy, PlacementTable(1, 1, tuple(listed))
    for server in running:
        await server.stop(None)


@pytest.fixture
async def fan_out() -> AsyncIterator[FanOut]:
    """A fan-out with connections of its own."""
    connections = IndexServers()
    yield FanOut(connections)
    await connections.close()


def query(record: CollectionRecord, **changes: Any) -> PartitionQuery:
    """Return a search for three codes with all latents."""
    codes = random_codes(3, seed=1)
    batch = codes_to_proto(RaggedCodes.from_padded(codes.latents, codes.weights), FINGERPRINT)
    fields = {"allow_partial": False, "allow_lower_k": True, "k_query": 32, "k_docs": 32, **changes}
    return PartitionQuery(record=record, codes=batch, top_n=5, min_score=None, where=None, positions={}, **fields)


async def test_all_servers_answer_at_the_same_lower_level(
    fan_out: FanOut, servers: tuple[list[Busy], PlacementTable], new_record: Callable[..., CollectionRecord]
) -> None:
    """Hits of one answer would be scored at different levels, and not be comparable."""
    busy, table = servers
    answers = await fan_out.search(table, query(new_record(partitions=64, k_max=32)), Deadline.after(10))
    assert (answers.query.k_query, answers.query.k_docs) == (8, 8)
    assert busy[0].asked[-1] == (8, 8)
    assert busy[1].asked == [(32, 32), (16, 16), (8, 8)]
    assert (len(answers.positions), answers.staleness_seconds) == (64, 8.0)


async def test_without_leave_overload_is_an_error_with_its_delay(
    fan_out: FanOut, servers: tuple[list[Busy], PlacementTable], new_record: Callable[..., CollectionRecord]
) -> None:
    """Users would get other levels than they asked for, or repeat at once what a server has no time for."""
    _, table = servers
    record = new_record(partitions=64, k_max=32)
    with pytest.raises(Overloaded, match=r"index-1 at .*: much to do") as raised:
        await fan_out.search(table, query(record, allow_lower_k=False), Deadline.after(10))
    assert raised.value.retry_seconds == 2.5


async def test_levels_do_not_fall_below_four(
    fan_out: FanOut, servers: tuple[list[Busy], PlacementTable], new_record: Callable[..., CollectionRecord]
) -> None:
    """A server that is overloaded whatever it is asked would be asked for ever."""
    busy, table = servers
    busy[1].k_docs_max = 0
    with pytest.raises(Overloaded):
        await fan_out.search(table, query(new_record(partitions=64, k_max=32)), Deadline.after(10))
    assert busy[1].asked == [(32, 32), (16, 16), (8, 8), (4, 4)]


async def test_partial_answers_go_without_a_server_that_stays_overloaded(
    fan_out: FanOut, servers: tuple[list[Busy], PlacementTable], new_record: Callable[..., CollectionRecord]
) -> None:
    """A caller who takes what there is would get an error instead of most of the answer."""
    busy, table = servers
    busy[1].k_docs_max = 0
    record = new_record(partitions=64, k_max=32)
    answers = await fan_out.search(table, query(record, allow_partial=True), Deadline.after(10))
    assert (answers.query.k_query, answers.query.k_docs) == (4, 4)
    assert 0 < len(answers.positions) < 64
    assert [type(failure) for failure in answers.failures] == [Overloaded]
    busy[0].k_docs_max = 0
    with pytest.raises(Overloaded):
        await fan_out.search(table, query(record, allow_partial=True), Deadline.after(10))
