"""A host with a tiny servicer of our own behind it."""

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import REGISTRY

from csr.v1 import search_pb2, search_pb2_grpc
from services.runtime import limits
from services.runtime.errors import LimitExceeded, Overloaded, UnknownCollection, error_from_rpc
from services.runtime.lifecycle import (
    DETAILS_MAX,
    REQUEST_ID_KEY,
    GrpcHost,
    HostOptions,
    request_metadata,
)

SERVICE = search_pb2.DESCRIPTOR.services_by_name["SearchService"].full_name


class Echo(search_pb2_grpc.SearchServiceServicer):
    """Behaves as the collection's name says."""

    def __init__(self) -> None:
        self.waiting = asyncio.Event()
        self.go_on = asyncio.Event()
        self.stream_ended = asyncio.Event()

    async def Count(self, request: search_pb2.CountRequest, context: Any) -> search_pb2.CountResponse:  # noqa: N802
        """Answer, raise or wait."""
        match request.collection:
            case "unknown":
                raise UnknownCollection("ü" * 10_000)
            case "bug":
                raise KeyError("secret of the server")
            case "wait":
                self.waiting.set()
                await self.go_on.wait()
        ((_, request_id),) = request_metadata()
        return search_pb2.CountResponse(count=len(request_id), token=search_pb2.Token(collection_id=request_id))

    async def Get(self, request: search_pb2.GetRequest, context: Any) -> search_pb2.GetResponse:  # noqa: N802
        """Answer nothing."""
        return search_pb2.GetResponse()

    async def UpsertStream(  # noqa: N802
        self, request_iterator: AsyncIterator[search_pb2.UpsertStreamRequest], context: Any
    ) -> AsyncIterator[search_pb2.UpsertStreamResponse]:
        """Answer every message with its number, or raise, or wait for ever."""
        try:
            async for request in request_iterator:
                if request.open.collection == "unknown":
                    raise UnknownCollection("unknown")
                if request.open.collection == "wait":
                    self.waiting.set()
                    await self.go_on.wait()
                yield search_pb2.UpsertStreamResponse(sequence=request.chunk.sequence)
        finally:
            self.stream_ended.set()


def options(**changes: Any) -> HostOptions:
    """Return options for a host on free ports."""
    fields = {"port": 0, "metrics_port": 0, "concurrent_requests": 4, "drain_seconds": 5.0, "reflection": True}
    return HostOptions(host="127.0.0.1", **{**fields, **changes})


@pytest.fixture
def servicer() -> Echo:
    """What is behind the host."""
    return Echo()


@pytest.fixture
async def host(servicer: Echo) -> AsyncIterator[GrpcHost]:
    """A host that listens and is not ready."""
    host = GrpcHost(options())
    search_pb2_grpc.add_SearchServiceServicer_to_server(servicer, host.server)
    await host.start([SERVICE])
    yield host
    servicer.go_on.set()
    await host.stop()


@pytest.fixture
async def channel(host: GrpcHost) -> AsyncIterator[grpc.aio.Channel]:
    """A connection to it that can send anything."""
    unlimited = [("grpc.max_send_message_length", -1)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{host.port}", options=unlimited) as channel:
        yield channel


async def count(channel: grpc.aio.Channel, collection: str, **call: Any) -> search_pb2.CountResponse:
    """Call Count."""
    stub = search_pb2_grpc.SearchServiceStub(channel)
    return await stub.Count(search_pb2.CountRequest(collection=collection), timeout=10, **call)


def requests_counted(code: str) -> float:
    """Return how many Count calls ended with this code."""
    return REGISTRY.get_sample_value("csr_requests_total", {"method": "Count", "code": code}) or 0.0


async def test_a_domain_error_keeps_its_code_and_a_bounded_text(channel: grpc.aio.Channel) -> None:
    """An error that quotes what a caller sent would exceed the size of headers and arrive as something else."""
    before = requests_counted("NOT_FOUND")
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await count(channel, "unknown")
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND
    assert raised.value.details() == "ü" * DETAILS_MAX
    assert isinstance(error_from_rpc(raised.value), UnknownCollection)
    assert requests_counted("NOT_FOUND") == before + 1


async def test_a_bug_shows_an_id_and_nothing_else(channel: grpc.aio.Channel) -> None:
    """Internals of the server would leak, or nobody could find the bug in the log."""
    with structlog.testing.capture_logs() as logged, pytest.raises(grpc.aio.AioRpcError) as raised:
        await count(channel, "bug")
    assert raised.value.code() is grpc.StatusCode.INTERNAL
    details = raised.value.details() or ""
    assert "secret" not in details
    event = next(event for event in logged if event["event"] == "unhandled error")
    assert event["error_id"] in details


async def test_a_request_id_is_passed_on(channel: grpc.aio.Channel) -> None:
    """One request could not be followed through the logs of several processes."""
    answer = await count(channel, "ok", metadata=((REQUEST_ID_KEY, "trace-7"),))
    assert answer.token.collection_id == "trace-7"
    made_up = [(await count(channel, "ok")).token.collection_id for _ in range(2)]
    assert made_up[0] != made_up[1]
    assert all(len(request_id) == 16 for request_id in made_up)


async def test_a_request_over_the_limit_is_explained(channel: grpc.aio.Channel) -> None:
    """Callers would see RESOURCE_EXHAUSTED and retry what can never succeed."""
    stub = search_pb2_grpc.SearchServiceStub(channel)
    request = search_pb2.GetRequest(collection="x" * (limits.REQUEST_BYTES_MAX + 1))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stub.Get(request, timeout=10)
    meant = error_from_rpc(raised.value)
    assert isinstance(meant, LimitExceeded)
    assert str(limits.REQUEST_BYTES_MAX) in str(meant)


async def test_health_follows_readiness(host: GrpcHost, channel: grpc.aio.Channel) -> None:
    """Kubernetes would send requests to a process that cannot answer yet."""
    health = health_pb2_grpc.HealthStub(channel)
    for name in ("", SERVICE):
        answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
        assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
    await host.set_ready(True)
    for name in ("", SERVICE):
        answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_requests_in_flight_finish_during_a_drain(
    host: GrpcHost, servicer: Echo, channel: grpc.aio.Channel
) -> None:
    """Every rolling update would break requests."""
    in_flight = asyncio.create_task(count(channel, "wait"))
    await servicer.waiting.wait()
    stopping = asyncio.create_task(host.stop())
    await asyncio.sleep(0.1)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await count(channel, "ok")
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    servicer.go_on.set()
    assert (await in_flight).count == 16
    await stopping


async def test_a_drain_ends_after_its_grace(servicer: Echo) -> None:
    """One stuck request would keep a process from ever stopping."""
    host = GrpcHost(options(drain_seconds=0.2))
    search_pb2_grpc.add_SearchServiceServicer_to_server(servicer, host.server)
    await host.start([SERVICE])
    async with grpc.aio.insecure_channel(f"127.0.0.1:{host.port}") as channel:
        stuck = asyncio.create_task(count(channel, "wait"))
        await servicer.waiting.wait()
        async with asyncio.timeout(3):
            await host.stop()
        with pytest.raises(grpc.aio.AioRpcError):
            await stuck


async def test_more_requests_than_allowed_are_refused_at_once(
    servicer: Echo, host: GrpcHost, channel: grpc.aio.Channel
) -> None:
    """Overload would fill the memory with waiting requests."""
    waiting = [asyncio.create_task(count(channel, "wait")) for _ in range(4)]
    await servicer.waiting.wait()
    await asyncio.sleep(0.2)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await count(channel, "ok")
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    servicer.go_on.set()
    assert len(await asyncio.gather(*waiting)) == 4


def opening(collection: str) -> search_pb2.UpsertStreamRequest:
    """Return the first message of a stream."""
    return search_pb2.UpsertStreamRequest(open=search_pb2.UpsertStreamOpen(collection=collection))


async def test_streams_answer_message_by_message(channel: grpc.aio.Channel) -> None:
    """A client of a stream would wait for an answer that comes only with the end."""
    stream = search_pb2_grpc.SearchServiceStub(channel).UpsertStream(timeout=10)
    for sequence in range(1, 4):
        await stream.write(search_pb2.UpsertStreamRequest(chunk=search_pb2.UpsertChunk(sequence=sequence)))
        answer = await stream.read()
        assert answer.sequence == sequence
    await stream.done_writing()
    assert await stream.read() is grpc.aio.EOF
    assert await stream.code() is grpc.StatusCode.OK


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (opening("unknown"), UnknownCollection),
        (opening("x" * (limits.REQUEST_BYTES_MAX + 1)), LimitExceeded),
    ],
)
async def test_errors_of_streams_are_those_of_calls(
    channel: grpc.aio.Channel, servicer: Echo, message: search_pb2.UpsertStreamRequest, error: type[Exception]
) -> None:
    """Clients of streams could not tell what they have to fix from what they may repeat."""
    stream = search_pb2_grpc.SearchServiceStub(channel).UpsertStream(timeout=10)
    await stream.write(message)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stream.read()
    assert type(error_from_rpc(raised.value)) is error
    await asyncio.wait_for(servicer.stream_ended.wait(), 10)


async def test_a_cancelled_stream_makes_room(channel: grpc.aio.Channel, servicer: Echo) -> None:
    """Clients that vanish would use up the requests that a server takes, until it refuses all."""
    stub = search_pb2_grpc.SearchServiceStub(channel)
    for _ in range(8):
        servicer.waiting.clear()
        servicer.stream_ended.clear()
        stream = stub.UpsertStream(timeout=10)
        await stream.write(opening("wait"))
        await asyncio.wait_for(servicer.waiting.wait(), 10)
        stream.cancel()
        await asyncio.wait_for(servicer.stream_ended.wait(), 10)


async def test_streams_count_as_requests(channel: grpc.aio.Channel, servicer: Echo) -> None:
    """Any number of open streams would be taken, whatever they cost."""
    stub = search_pb2_grpc.SearchServiceStub(channel)
    streams = [stub.UpsertStream(timeout=10) for _ in range(4)]
    for stream in streams:
        await stream.write(opening("ok"))
        await stream.read()
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await count(channel, "ok")
    overloaded = error_from_rpc(refused.value)
    assert isinstance(overloaded, Overloaded)
    assert overloaded.retry_seconds == 1.0
    for stream in streams:
        stream.cancel()


@pytest.mark.parametrize("field", ["port", "metrics_port"])
async def test_a_taken_port_is_named(field: str) -> None:
    """Two processes would share a port, each getting half of the requests."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        host = GrpcHost(options(**{field: port}))
        with pytest.raises(OSError, match=str(port)):
            await host.start([SERVICE])
        await host.server.stop(None)


def test_metadata_outside_of_a_request_is_empty() -> None:
    """Background calls would carry the id of some request that is long over."""
    structlog.contextvars.clear_contextvars()
    assert request_metadata() == ()


async def test_watchers_of_health_leave_room(host: GrpcHost, channel: grpc.aio.Channel) -> None:
    """Clients that watch health, which never ends, would use up all calls, and a healthy server would be killed."""
    await host.set_ready(True)
    health = health_pb2_grpc.HealthStub(channel)
    watches = [health.Watch(health_pb2.HealthCheckRequest()) for _ in range(80)]
    answers = await asyncio.gather(*(watch.read() for watch in watches), return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
    assert len(refused) == 80 - 32
    assert {(error.code(), "32 calls watch health" in str(error.details())) for error in refused} == {
        (grpc.StatusCode.RESOURCE_EXHAUSTED, True)
    }
    assert (await health.Check(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.SERVING
    await count(channel, "any")
    await host.set_ready(False)
    told = [await watch.read() for watch, answer in zip(watches, answers, strict=True) if answer not in refused]
    assert {answer.status for answer in told} == {health_pb2.HealthCheckResponse.NOT_SERVING}
    for watch in watches:
        watch.cancel()
