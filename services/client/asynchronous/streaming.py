"""An upsert stream over asyncio connections."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable

import grpc

from csr.v1.search_pb2 import UpsertStreamRequest, UpsertStreamResponse
from services.client.retry import Budget
from services.client.streaming import StreamState, broken
from services.client.types import Batch, BatchResult
from services.runtime.errors import CsrError, DeadlineSpent, PartitionUnavailable

Answers = grpc.aio.StreamStreamCall[UpsertStreamRequest, UpsertStreamResponse]
Method = Callable[[AsyncIterator[UpsertStreamRequest]], Answers]


class Upload:
    """Carries one StreamState to its end, over as many connections as that takes."""

    def __init__(self, method: Method, state: StreamState, timeout_seconds: float) -> None:
        self._method = method
        self._state = state
        self._timeout_seconds = timeout_seconds
        self._budget: Budget | None = None
        self._call: _Call | None = None

    async def results(self, batches: AsyncIterable[Batch]) -> AsyncGenerator[BatchResult, None]:
        """Yield one result per batch, in order."""
        try:
            await self._connect()
            async for batch in batches:
                stored_before = self._state.add(batch)
                if stored_before is not None:
                    yield stored_before
                async for result in self._exchange(to_the_end=False):
                    yield result
            async for result in self._exchange(to_the_end=True):
                yield result
            await self._connected.finish(self._timeout_seconds)
        finally:
            self._close()

    async def _exchange(self, to_the_end: bool) -> AsyncIterator[BatchResult]:
        """Send what waits and yield the results that arrive meanwhile; to_the_end, until all of them have."""
        while True:
            while (message := self._state.take()) is not None:
                self._connected.send(message)
            needed = self._state.unanswered if to_the_end else self._state.waiting
            if not needed and not self._connected.answered:
                return
            result = await self._receive()
            if result is not None:
                yield result

    async def _receive(self) -> BatchResult | None:
        try:
            response = await self._connected.receive(self._timeout_seconds)
        except CsrError as error:
            await asyncio.sleep(self._patience().pause(error))
            await self._connect()
            return None
        self._budget = None
        return self._state.answered(response)

    async def _connect(self) -> None:
        while True:
            self._close()
            self._call = _Call(self._method, self._state.opening)
            try:
                response = await self._call.receive(self._patience().remaining())
            except CsrError as error:
                await asyncio.sleep(self._patience().pause(error))
                continue
            self._state.opened(response)
            if not self._state.unanswered:
                self._budget = None
            return

    @property
    def _connected(self) -> "_Call":
        assert self._call is not None, "_connect came first"
        return self._call

    def _patience(self) -> Budget:
        """The time for reconnections, counted anew whenever a chunk was stored or nothing is left to store."""
        self._budget = self._budget or Budget(self._timeout_seconds)
        return self._budget

    def _close(self) -> None:
        if self._call is not None:
            self._call.close()


class _Call:
    """One connection of a stream. One read is always under way, so that answers can be waited for with a limit."""

    def __init__(self, method: Method, opening: UpsertStreamRequest) -> None:
        self._requests: asyncio.Queue[UpsertStreamRequest | None] = asyncio.Queue()
        self._requests.put_nowait(opening)
        self._call = method(self._outgoing())
        self._reading = asyncio.ensure_future(self._call.read())

    @property
    def answered(self) -> bool:
        """Whether `receive` would return or fail at once."""
        return self._reading.done()

    def send(self, message: UpsertStreamRequest) -> None:
        """Hand on a message; never waits."""
        self._requests.put_nowait(message)

    async def receive(self, seconds: float) -> UpsertStreamResponse:
        """Wait for the next answer.

        Raises:
            CsrError: the connection ended.
            DeadlineSpent: there was no answer in that time.
        """
        await asyncio.wait({self._reading}, timeout=seconds)
        if not self._reading.done():
            raise DeadlineSpent(f"upsert stream: no answer within {seconds:.1f} s")
        try:
            answer = self._reading.result()
        except grpc.RpcError as error:
            raise broken(error) from error
        if not isinstance(answer, UpsertStreamResponse):
            raise PartitionUnavailable("the server ended the upsert stream")
        self._reading = asyncio.ensure_future(self._call.read())
        return answer

    async def finish(self, seconds: float) -> None:
        """Tell the server that there is no more, and give it time to end the call; all answers are here already."""
        self._requests.put_nowait(None)
        await asyncio.wait({self._reading}, timeout=seconds)

    def close(self) -> None:
        """End the call, if it has not ended."""
        self._requests.put_nowait(None)
        self._call.cancel()
        self._reading.add_done_callback(_retrieved)

    async def _outgoing(self) -> AsyncIterator[UpsertStreamRequest]:
        while (message := await self._requests.get()) is not None:
            yield message


def _retrieved(reading: "asyncio.Future[object]") -> None:
    """Look at the error of a read that nobody waits for any more, or asyncio would report it."""
    if not reading.cancelled():
        reading.exception()
