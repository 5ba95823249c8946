"""An upsert stream over blocking connections."""

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from typing import Protocol

import grpc

from csr.v1.search_pb2 import UpsertStreamRequest, UpsertStreamResponse
from services.client.retry import Budget
from services.client.streaming import StreamState, broken
from services.client.types import Batch, BatchResult
from services.runtime.errors import CsrError, DeadlineSpent, PartitionUnavailable


class Answers(Protocol):
    """What gRPC returns for a stream."""

    def __iter__(self) -> Iterator[UpsertStreamResponse]: ...

    def cancel(self) -> object:
        """End the call."""


Method = Callable[[Iterator[UpsertStreamRequest]], Answers]


class Upload:
    """Carries one StreamState to its end, over as many connections as that takes."""

    def __init__(self, method: Method, state: StreamState, timeout_seconds: float) -> None:
        self._method = method
        self._state = state
        self._timeout_seconds = timeout_seconds
        self._budget: Budget | None = None
        self._call: _Call | None = None

    def results(self, batches: Iterable[Batch]) -> Generator[BatchResult, None, None]:
        """Yield one result per batch, in order; batches are taken from the caller's thread."""
        try:
            self._connect()
            for batch in batches:
                stored_before = self._state.add(batch)
                if stored_before is not None:
                    yield stored_before
                yield from self._exchange(to_the_end=False)
            yield from self._exchange(to_the_end=True)
            self._connected.finish(self._timeout_seconds)
        finally:
            self._close()

    def _exchange(self, to_the_end: bool) -> Iterator[BatchResult]:
        """Send what waits and yield the results that arrive meanwhile; to_the_end, until all of them have."""
        while True:
            while (message := self._state.take()) is not None:
                self._connected.send(message)
            needed = self._state.unanswered if to_the_end else self._state.waiting
            if not needed and not self._connected.answered:
                return
            result = self._receive()
            if result is not None:
                yield result

    def _receive(self) -> BatchResult | None:
        try:
            response = self._connected.receive(self._timeout_seconds)
        except CsrError as error:
            time.sleep(self._patience().pause(error))
            self._connect()
            return None
        self._budget = None
        return self._state.answered(response)

    def _connect(self) -> None:
        while True:
            self._close()
            self._call = _Call(self._method, self._state.opening)
            try:
                response = self._call.receive(self._patience().remaining())
            except CsrError as error:
                time.sleep(self._patience().pause(error))
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
    """One connection of a stream. A thread reads it, so that answers can be waited for with a limit."""

    def __init__(self, method: Method, opening: UpsertStreamRequest) -> None:
        self._requests: queue.SimpleQueue[UpsertStreamRequest | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[UpsertStreamResponse | grpc.RpcError | None] = queue.SimpleQueue()
        self._requests.put(opening)
        self._call = method(iter(self._requests.get, None))
        threading.Thread(target=self._read, name="csr-upsert-stream", daemon=True).start()

    @property
    def answered(self) -> bool:
        """Whether `receive` would return or fail at once."""
        return not self._answers.empty()

    def send(self, message: UpsertStreamRequest) -> None:
        """Hand on a message; never waits."""
        self._requests.put(message)

    def receive(self, seconds: float) -> UpsertStreamResponse:
        """Wait for the next answer.

        Raises:
            CsrError: the connection ended.
            DeadlineSpent: there was no answer in that time.
        """
        try:
            answer = self._answers.get(timeout=seconds)
        except queue.Empty:
            raise DeadlineSpent(f"upsert stream: no answer within {seconds:.1f} s") from None
        if answer is None:
            raise PartitionUnavailable("the server ended the upsert stream")
        if isinstance(answer, grpc.RpcError):
            raise broken(answer) from answer
        return answer

    def finish(self, seconds: float) -> None:
        """Tell the server that there is no more, and give it time to end the call; all answers are here already."""
        self._requests.put(None)
        with suppress(queue.Empty):
            self._answers.get(timeout=seconds)

    def close(self) -> None:
        """End the call, if it has not ended."""
        self._requests.put(None)
        self._call.cancel()

    def _read(self) -> None:
        try:
            for response in self._call:
                self._answers.put(response)
            self._answers.put(None)
        except grpc.RpcError as error:
            self._answers.put(error)
