"""Repeats, against servers that fail as told. The servicer is ours; what is tested is the client."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest

from csr.v1 import control_pb2, control_pb2_grpc, search_pb2, search_pb2_grpc
from services.client import AsyncClient, Client
from services.runtime.errors import (
    CsrError,
    InvalidRequest,
    LimitExceeded,
    Overloaded,
    PartitionUnavailable,
    StoreFull,
    StoreUnavailable,
    error_metadata,
    status_of,
)
from tests.support.redis_server import free_port


class Failing(search_pb2_grpc.SearchServiceServicer, control_pb2_grpc.ControlServiceServicer):
    """Raises the errors in turn, then answers; remembers write ids."""

    def __init__(self) -> None:
        self.errors: list[CsrError] = []
        self.calls = 0
        self.write_ids: list[str] = []

    def Count(self, request: search_pb2.CountRequest, context: Any) -> search_pb2.CountResponse:  # noqa: N802
        """Answer 7."""
        self._fail(context)
        return search_pb2.CountResponse(count=7)

    def Upsert(self, request: search_pb2.UpsertRequest, context: Any) -> search_pb2.UpsertResponse:  # noqa: N802
        """Answer with results but no positions."""
        self.write_ids.append(request.write_id)
        self._fail(context)
        result = search_pb2.WriteResult(status=search_pb2.WRITE_STATUS_APPLIED, version=1)
        return search_pb2.UpsertResponse(results=[result] * len(request.ids), write_id=request.write_id)

    def CreateCollection(self, request: Any, context: Any) -> control_pb2.CreateCollectionResponse:  # noqa: N802
        """Never succeed."""
        self._fail(context)
        return control_pb2.CreateCollectionResponse()

    def _fail(self, context: Any) -> None:
        self.calls += 1
        if self.errors:
            error = self.errors.pop(0)
            context.set_trailing_metadata(error_metadata(error))
            context.abort(status_of(error), str(error))


@pytest.fixture
def servicer() -> Failing:
    """What the server answers with."""
    return Failing()


@pytest.fixture
def address(servicer: Failing) -> Iterator[str]:
    """Where it listens."""
    server = grpc.server(ThreadPoolExecutor(2))
    search_pb2_grpc.add_SearchServiceServicer_to_server(servicer, server)
    control_pb2_grpc.add_ControlServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None)


def test_unavailable_is_repeated(servicer: Failing, address: str) -> None:
    """Every restart of a server would reach the users."""
    servicer.errors = [PartitionUnavailable("index-0"), StoreUnavailable("redis")]
    with Client(address) as client:
        assert client.count("docs").count == 7
    assert servicer.calls == 3


async def test_unavailable_is_repeated_in_asyncio(servicer: Failing, address: str) -> None:
    """Every restart of a server would reach the users of asyncio."""
    servicer.errors = [PartitionUnavailable("index-0"), StoreUnavailable("redis")]
    async with AsyncClient(address) as client:
        assert (await client.count("docs")).count == 7
    assert servicer.calls == 3


def test_overload_is_repeated_when_the_server_says(servicer: Failing, address: str) -> None:
    """Every peak of load would reach the users, or repeats would make it worse."""
    servicer.errors = [Overloaded("queue", retry_seconds=0.4), Overloaded("queue", retry_seconds=0.3)]
    started = time.monotonic()
    with Client(address) as client:
        assert client.count("docs").count == 7
    assert servicer.calls == 3
    assert 0.7 <= time.monotonic() - started < 5.0


async def test_overload_is_repeated_in_asyncio(servicer: Failing, address: str) -> None:
    """Every peak of load would reach the users of asyncio."""
    servicer.errors = [Overloaded("queue", retry_seconds=0.3)]
    started = time.monotonic()
    async with AsyncClient(address) as client:
        assert (await client.count("docs")).count == 7
    assert time.monotonic() - started >= 0.3


def test_overload_beyond_the_time_is_told_at_once(servicer: Failing, address: str) -> None:
    """A caller would wait for an answer that cannot come in time."""
    servicer.errors = [Overloaded("queue", retry_seconds=60.0)]
    started = time.monotonic()
    with Client(address, timeout_seconds=5.0) as client, pytest.raises(Overloaded, match="queue") as raised:
        client.count("docs")
    assert raised.value.retry_seconds == 60.0
    assert time.monotonic() - started < 2.0
    assert servicer.calls == 1


@pytest.mark.parametrize("error", [InvalidRequest("top_n"), StoreFull("redis")])
def test_nothing_else_is_repeated(servicer: Failing, address: str, error: CsrError) -> None:
    """Hopeless requests would be repeated."""
    servicer.errors = [error]
    with Client(address) as client, pytest.raises(type(error), match=str(error)):
        client.count("docs")
    assert servicer.calls == 1


def test_a_message_beyond_the_limits_of_grpc_is_not_repeated(servicer: Failing, address: str) -> None:
    """A request that can never be read would be sent again and again, as if the server were busy."""
    with Client(address) as client, pytest.raises(LimitExceeded, match="larger than max"):
        client.get("docs", ["x" * 100] * 60_000)
    assert servicer.calls == 0


def test_a_repeated_write_keeps_its_id(servicer: Failing, address: str) -> None:
    """A write whose answer was lost would be applied twice."""
    servicer.errors = [StoreUnavailable("outcome unknown"), StoreUnavailable("outcome unknown")]
    with Client(address) as client:
        written = client.upsert("docs", ["a"], embeddings=np.ones((1, 4)))
    assert len(servicer.write_ids) == 3
    assert set(servicer.write_ids) == {written.write_id}


def test_creations_are_not_repeated(servicer: Failing, address: str) -> None:
    """A creation whose answer was lost would be reported as CollectionExists."""
    servicer.errors = [StoreUnavailable("redis")]
    with Client(address) as client, pytest.raises(StoreUnavailable):
        client.create_collection("docs", "adapter")
    assert servicer.calls == 1


def test_repeats_end_with_the_time_and_name_the_cause(servicer: Failing, address: str) -> None:
    """A client would hang while a server is down, or report only that time was up."""
    servicer.errors = [PartitionUnavailable("index-0 is down")] * 1000
    started = time.monotonic()
    with Client(address, timeout_seconds=1.0) as client, pytest.raises(PartitionUnavailable, match="index-0 is down"):
        client.count("docs")
    assert time.monotonic() - started < 1.5
    assert servicer.calls < 60, "pauses grow"


async def test_nobody_there_is_unavailable() -> None:
    """A wrong address would hang, or fail without saying what could not be reached."""
    address = f"127.0.0.1:{free_port()}"
    with Client(address, timeout_seconds=0.5) as client, pytest.raises(PartitionUnavailable):
        client.count("docs")
    async with AsyncClient(address, timeout_seconds=0.5) as async_client:
        with pytest.raises(PartitionUnavailable):
            await async_client.count("docs")
