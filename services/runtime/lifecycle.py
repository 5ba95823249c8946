"""A grpc.aio server as every process of ours runs it: errors, metrics, health, reflection, drain.

`GrpcHost` is the shell around a servicer: it answers domain errors with their status code, counts and times every
call, reports health per readiness, and stops without losing requests in flight.
"""

import asyncio
import gc
import signal
import socket
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final, NoReturn, cast

import grpc
import structlog
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection
from prometheus_client import start_http_server

from services.runtime import limits, metrics
from services.runtime.errors import (
    CsrError,
    InternalError,
    InvalidRequest,
    LimitExceeded,
    Overloaded,
    error_metadata,
    status_of,
)

log = structlog.get_logger()

REQUEST_ID_KEY = "x-request-id"
"""Metadata that names a request; made up when absent, passed on to every call made on its behalf."""

DETAILS_MAX = 500
"""Characters of an error text: it travels in a header, and texts quote what the caller sent."""

LIVE_SERVICE: Final = "live"
"""Name to ask health for whether the process runs at all: a server that loads is not ready, but must not be killed."""

_HEALTH: Final = "/" + health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
_ROOM_FOR_PROBES: Final = 64
"""Calls taken beyond the requests: a server that is merely busy must still say so, or it would be killed for it."""
_WATCHERS_MAX: Final = 32
"""Of these, for watching health: such calls never end, and would leave no room for those that only ask."""

Handler = Callable[[Any, "grpc.aio.ServicerContext[Any, Any]"], Awaitable[Any]]
StreamHandler = Callable[[Any, "grpc.aio.ServicerContext[Any, Any]"], AsyncGenerator[Any, None]]
Parser = Callable[[bytes], Any]


class RequestInterceptor(grpc.aio.ServerInterceptor):
    """Limits requests, turns exceptions into status codes and keeps the request metrics.

    Of unary calls and of streams in both directions; a stream counts as one request. Of health, which is counted, but
    not among the requests, only watchers are refused, beyond a number of their own; nobody else streams answers alone.
    """

    def __init__(self, concurrent_requests: int) -> None:
        self._requests = _Room(concurrent_requests, "requests are being answered")
        self._watchers = _Room(_WATCHERS_MAX, "calls watch health")

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["grpc.RpcMethodHandler[Any, Any] | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """Wrap the handler of one call."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return handler
        service, _, method = str(handler_call_details.method).rpartition("/")
        if handler.unary_stream:
            wrap, behaviour = grpc.unary_stream_rpc_method_handler, self._watchers.limited(_parsed(handler))
        else:
            streams = bool(handler.stream_stream)
            wrap = grpc.stream_stream_rpc_method_handler if streams else grpc.unary_unary_rpc_method_handler
            behaviour = _streamed(handler) if streams else _parsed(handler)
            behaviour = behaviour if service == _HEALTH else self._requests.limited(behaviour)
        return wrap(
            _observed(method, behaviour),
            request_deserializer=None,  # _parse does it, where its errors are answered like all others
            response_serializer=handler.response_serializer,
        )


class _Room:
    """Takes so many calls at a time and refuses more."""

    def __init__(self, limit: int, full: str) -> None:
        self._limit = limit
        self._full = full
        self._in_flight = 0

    def limited(self, handler: Handler) -> Handler:
        async def handle(raw: Any, context: "grpc.aio.ServicerContext[Any, Any]") -> Any:
            if self._in_flight >= self._limit:
                raise Overloaded(f"{self._limit} {self._full}, no more at a time; try again later")
            self._in_flight += 1
            try:
                return await handler(raw, context)
            finally:
                self._in_flight -= 1

        return handle


def _parsed(handler: "grpc.RpcMethodHandler[Any, Any]") -> Handler:
    """Return a handler of one request; an answer that is streamed, it writes itself."""
    behaviour = cast(Handler, handler.unary_unary or handler.unary_stream)
    parse = cast(Parser, handler.request_deserializer)

    async def handle(raw: bytes, context: "grpc.aio.ServicerContext[Any, Any]") -> Any:
        return await behaviour(_parse(raw, parse), context)

    return handle


def _streamed(handler: "grpc.RpcMethodHandler[Any, Any]") -> Handler:
    """Return a handler that writes what the servicer yields; it ends, with the servicer's, when the call does."""
    behaviour, parse = cast(StreamHandler, handler.stream_stream), cast(Parser, handler.request_deserializer)

    async def handle(raw: AsyncIterator[bytes], context: "grpc.aio.ServicerContext[Any, Any]") -> None:
        requests = (_parse(message, parse) async for message in raw)
        async with aclosing(behaviour(requests, context)) as responses:
            async for response in responses:
                await context.write(response)

    return handle


def _parse(raw: bytes, parse: Parser) -> Any:
    if len(raw) > limits.REQUEST_BYTES_MAX:
        raise LimitExceeded(f"request: {len(raw)} bytes, at most {limits.REQUEST_BYTES_MAX} are allowed")
    try:
        return parse(raw)
    except DecodeError as error:
        raise InvalidRequest(f"request: {error}") from None


def _observed(method: str, handler: Handler) -> Handler:
    async def handle(raw: Any, context: "grpc.aio.ServicerContext[Any, Any]") -> Any:
        started = time.perf_counter()
        code = "OK"
        structlog.contextvars.bind_contextvars(request_id=_request_id(context), rpc=method)
        try:
            return await handler(raw, context)
        except CsrError as error:
            code = status_of(error).name
            await _abort(context, error)
        except asyncio.CancelledError:
            code = "CANCELLED"
            raise
        except Exception:
            code = "INTERNAL"
            error_id = uuid.uuid4().hex[:12]
            log.exception("unhandled error", error_id=error_id)
            await _abort(context, InternalError(f"internal error, see the log for error_id {error_id}"))
        finally:
            metrics.counter(metrics.REQUESTS).labels(method, code).inc()
            metrics.histogram(metrics.REQUEST_SECONDS).labels(method).observe(time.perf_counter() - started)

    return handle


def _request_id(context: "grpc.aio.ServicerContext[Any, Any]") -> str:
    for key, value in context.invocation_metadata() or ():
        if key == REQUEST_ID_KEY:
            return str(value)[:64]
    return uuid.uuid4().hex[:16]


def request_metadata() -> tuple[tuple[str, str], ...]:
    """Metadata for calls on behalf of the request that is being handled: its id."""
    request_id = structlog.contextvars.get_contextvars().get("request_id")
    return ((REQUEST_ID_KEY, request_id),) if request_id else ()


async def _abort(context: "grpc.aio.ServicerContext[Any, Any]", error: CsrError) -> NoReturn:
    await context.abort(status_of(error), str(error)[:DETAILS_MAX], trailing_metadata=error_metadata(error))
    raise AssertionError("abort raises")


@dataclass(frozen=True)
class HostOptions:
    """Where a server listens and how much it takes on."""

    host: str
    port: int
    metrics_port: int
    concurrent_requests: int
    drain_seconds: float
    reflection: bool


class GrpcHost:
    """One grpc.aio server with health, reflection, metrics and drain.

    Add servicers to `server`, then `start`, `set_ready`, and finally `stop`. Health is NOT_SERVING until set_ready.
    """

    def __init__(self, options: HostOptions) -> None:
        self.options = options
        self.port = 0
        self.metrics_port = 0
        self.server = grpc.aio.server(
            interceptors=[RequestInterceptor(options.concurrent_requests)],
            maximum_concurrent_rpcs=options.concurrent_requests + _ROOM_FOR_PROBES,
            options=[
                ("grpc.max_receive_message_length", limits.MESSAGE_BYTES_MAX),
                ("grpc.max_send_message_length", limits.RESPONSE_BYTES_MAX),
                ("grpc.so_reuseport", 0),  # a second process on the port must fail, not share it
            ],
        )
        self._health = HealthServicer()
        self._names: Sequence[str] = ("",)
        self._settled = False

    async def start(self, service_names: Sequence[str]) -> None:
        """Bind the ports and begin to answer.

        Args:
            service_names: Full names of the servicers, for health and reflection.

        Raises:
            OSError: a port is taken; the text names it.
        """
        options = self.options
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.server)
        self._names = ("", *service_names)
        if options.reflection:
            names = (*service_names, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name)
            reflection.enable_server_reflection((*names, reflection.SERVICE_NAME), self.server)
        await self._health.set(LIVE_SERVICE, health_pb2.HealthCheckResponse.SERVING)
        await self.set_ready(False)
        try:
            # gRPC itself gives the reason of a failure only in log lines of its own.
            socket.create_server((options.host, options.port)).close()
            self.port = self.server.add_insecure_port(f"{options.host}:{options.port}")
        except OSError as error:
            raise OSError(f"port {options.port} on {options.host}: {error.strerror}") from None
        except RuntimeError:
            raise OSError(f"port {options.port} on {options.host} is taken") from None
        try:
            metrics_server, _ = start_http_server(options.metrics_port, addr=options.host)
        except OSError as error:
            raise OSError(f"metrics port {options.metrics_port} on {options.host}: {error.strerror}") from None
        self.metrics_port = metrics_server.server_port
        await self.server.start()

    async def set_ready(self, ready: bool) -> None:
        """Report SERVING or NOT_SERVING."""
        if ready and not self._settled:
            self._settled = True
            # What there is now stays: full collections that look at it again take a tenth of a second each.
            gc.collect()
            gc.freeze()
        status = health_pb2.HealthCheckResponse.SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in self._names:
            await self._health.set(name, status)

    async def stop(self) -> None:
        """Report NOT_SERVING, refuse new requests and let those in flight finish within the grace."""
        await self._health.enter_graceful_shutdown()
        await self.server.stop(self.options.drain_seconds)


async def until_signalled() -> None:
    """Return when the process is asked to stop (SIGTERM or SIGINT)."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, stop.set)
    await stop.wait()
