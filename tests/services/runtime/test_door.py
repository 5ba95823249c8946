"""What a server lets in before any servicer sees it: only so many requests, and only messages that can be read."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import REGISTRY

from csr.v1 import search_pb2, search_pb2_grpc
from services.runtime.errors import InvalidRequest, Overloaded, error_from_rpc
from services.runtime.lifecycle import LIVE_SERVICE, GrpcHost, HostOptions

CONCURRENT_REQUESTS = 3
COUNT = "/csr.v1.SearchService/Count"


class Slow(search_pb2_grpc.SearchServiceServicer):
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.waiting = 0

    async def Count(self, request: search_pb2.CountRequest, context: Any) -> search_pb2.CountResponse:  # noqa: N802
        """Wait, then answer."""
        self.waiting += 1
        await self.go_on.wait()
        return search_pb2.CountResponse()


@pytest.fixture
async def servicer() -> Slow:
    """What is behind the host."""
    return Slow()


@pytest.fixture
async def channel(servicer: Slow) -> AsyncIterator[grpc.aio.Channel]:
    """A connection to a host that takes few requests at a time."""
    host = GrpcHost(HostOptions("127.0.0.1", 0, 0, CONCURRENT_REQUESTS, 1.0, reflection=False))
    search_pb2_grpc.add_SearchServiceServicer_to_server(servicer, host.server)
    await host.start([search_pb2.DESCRIPTOR.services_by_name["SearchService"].full_name])
    async with grpc.aio.insecure_channel(f"127.0.0.1:{host.port}") as channel:
        yield channel
    servicer.go_on.set()
    await host.stop()


def counted(code: str) -> float:
    """Return how many Count calls ended with this code."""
    return REGISTRY.get_sample_value("csr_requests_total", {"method": "Count", "code": code}) or 0.0


async def counts_to(code: str, count: float) -> None:
    """Wait for the metric, which is written after the answer was sent."""
    async with asyncio.timeout(5):
        while counted(code) != count:
            await asyncio.sleep(0.01)


async def test_a_full_server_still_says_that_it_lives(servicer: Slow, channel: grpc.aio.Channel) -> None:
    """Kubernetes would kill servers for being busy, and the rest of them would be busier still."""
    stub = search_pb2_grpc.SearchServiceStub(channel)
    waiting = [stub.Count(search_pb2.CountRequest(), timeout=10) for _ in range(CONCURRENT_REQUESTS)]
    while servicer.waiting < CONCURRENT_REQUESTS:
        await asyncio.sleep(0.01)
    refused = counted("RESOURCE_EXHAUSTED")
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stub.Count(search_pb2.CountRequest(), timeout=5)
    meant = error_from_rpc(raised.value)
    assert isinstance(meant, Overloaded)
    assert str(CONCURRENT_REQUESTS) in str(meant)
    await counts_to("RESOURCE_EXHAUSTED", refused + 1)
    live = health_pb2.HealthCheckRequest(service=LIVE_SERVICE)
    for _ in range(2 * CONCURRENT_REQUESTS):
        reply = await health_pb2_grpc.HealthStub(channel).Check(live, timeout=5)
        assert reply.status == health_pb2.HealthCheckResponse.SERVING
    servicer.go_on.set()
    assert len(await asyncio.gather(*waiting)) == CONCURRENT_REQUESTS


async def test_places_are_free_again_after_answers_and_after_callers_who_left(
    servicer: Slow, channel: grpc.aio.Channel
) -> None:
    """A server would refuse more and more requests until somebody restarts it."""
    stub = search_pb2_grpc.SearchServiceStub(channel)
    for _ in range(CONCURRENT_REQUESTS + 1):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.Count(search_pb2.CountRequest(), timeout=0.1)
        assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await asyncio.sleep(0.05)
    servicer.go_on.set()
    for _ in range(CONCURRENT_REQUESTS + 1):
        await stub.Count(search_pb2.CountRequest(), timeout=5)


@pytest.mark.parametrize("request_bytes", [b"\xff\xff\xff\xff", b"\x0a\x02\xff\xfe", b"\x0a\x05abc"])
async def test_bytes_that_are_no_request_are_the_callers_fault(channel: grpc.aio.Channel, request_bytes: bytes) -> None:
    """A client with a bug would see UNKNOWN, as if the server had one, and its requests would go uncounted."""
    before = counted("INVALID_ARGUMENT")
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await channel.unary_unary(COUNT)(request_bytes, timeout=5)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert isinstance(error_from_rpc(raised.value), InvalidRequest)
    await counts_to("INVALID_ARGUMENT", before + 1)
