"""Upsert streams, against a server that breaks them as told. The servicer is ours; what is tested is the client."""

import asyncio
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest

from csr.v1 import search_pb2, search_pb2_grpc
from services.client import AsyncClient, Batch, BatchResult, Client
from services.client.streaming import CHUNKS_IN_FLIGHT_MAX
from services.runtime import limits
from services.runtime.errors import (
    CsrError,
    DeadlineSpent,
    InvalidRequest,
    Overloaded,
    PartitionUnavailable,
    StoreUnavailable,
    error_metadata,
    status_of,
)
from tests.support.redis_server import free_port


class Storing(search_pb2_grpc.SearchServiceServicer):
    """Stores chunks in memory; after every `break_after` of a connection's chunks it raises the next of the errors."""

    def __init__(self) -> None:
        self.stored: dict[int, list[str]] = {}
        self.errors: list[CsrError] = []
        self.break_after = 0
        self.answer_before_breaking = True
        self.connections = 0
        self.received = 0
        self.held = threading.Event()
        self.held.set()

    def UpsertStream(  # noqa: N802
        self, requests: Iterator[search_pb2.UpsertStreamRequest], context: Any
    ) -> Iterator[search_pb2.UpsertStreamResponse]:
        """Answer with versions that are the numbers of chunks; documents called `bad` are invalid."""
        assert next(requests).open.collection == "docs"
        self.connections += 1
        if self.errors and self.break_after == 0:
            self._break(context)
        yield search_pb2.UpsertStreamResponse(sequence=max(self.stored, default=0))
        for number, request in enumerate(requests, 1):
            self.received += 1
            self.held.wait(20.0)
            chunk = request.chunk
            again = chunk.sequence in self.stored
            assert again or chunk.sequence == max(self.stored, default=0) + 1, "chunks came out of order"
            self.stored[chunk.sequence] = list(chunk.ids)
            breaking = self.errors and number > self.break_after
            if breaking and not self.answer_before_breaking:
                self._break(context)
            yield search_pb2.UpsertStreamResponse(
                sequence=chunk.sequence,
                results=[
                    search_pb2.WriteResult(status=search_pb2.WRITE_STATUS_INVALID, error="bad")
                    if id == "bad"
                    else search_pb2.WriteResult(status=search_pb2.WRITE_STATUS_APPLIED, version=chunk.sequence)
                    for id in chunk.ids
                ],
                token=search_pb2.Token(
                    collection_id="c", positions=[search_pb2.PartitionPosition(partition=0, lsn=chunk.sequence)]
                ),
            )
            if breaking:
                self._break(context)

    def _break(self, context: Any) -> None:
        error = self.errors.pop(0)
        context.set_trailing_metadata(error_metadata(error))
        context.abort(status_of(error), str(error))


@pytest.fixture
def servicer() -> Storing:
    """What the server answers with."""
    return Storing()


@pytest.fixture
def address(servicer: Storing) -> Iterator[str]:
    """Where it listens."""
    server = grpc.server(ThreadPoolExecutor(4))
    search_pb2_grpc.add_SearchServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    servicer.held.set()
    server.stop(None)


def batches(count: int, rows: int = 2) -> Iterator[Batch]:
    """Yield batches of documents with ids of their own."""
    for number in range(count):
        yield Batch([f"d{number}-{row}" for row in range(rows)], embeddings=np.ones((rows, 4)))


def versions(results: list[BatchResult]) -> list[list[int | None]]:
    """Return the version of each document; None where its result is not known."""
    return [[each and each.version for each in result.results] for result in results]


Stream = Callable[[str, Iterable[Batch], float], list[BatchResult]]


def blocking(address: str, source: Iterable[Batch], timeout_seconds: float) -> list[BatchResult]:
    """Run a stream through the blocking client."""
    with Client(address, timeout_seconds) as client:
        return list(client.upsert_stream("docs", source, stream_id="s"))


def asynchronous(address: str, source: Iterable[Batch], timeout_seconds: float) -> list[BatchResult]:
    """Run a stream through the asyncio client."""

    async def batches() -> AsyncIterator[Batch]:
        for batch in source:
            yield batch

    async def run() -> list[BatchResult]:
        async with AsyncClient(address, timeout_seconds) as client:
            return [result async for result in client.upsert_stream("docs", batches(), stream_id="s")]

    return asyncio.run(run())


both = pytest.mark.parametrize("stream", [blocking, asynchronous])


@both
def test_every_batch_has_its_result(stream: Stream, servicer: Storing, address: str) -> None:
    """A bulk load could not tell what became of its documents."""
    results = stream(address, batches(20), 30.0)
    assert versions(results) == [[n, n] for n in range(1, 21)]
    assert [result.token.positions for result in results if result.token] == [{0: n} for n in range(1, 21)]
    assert servicer.connections == 1


@both
def test_batches_beyond_the_limits_of_a_chunk_are_cut(stream: Stream, servicer: Storing, address: str) -> None:
    """Users would have to know the limits of a chunk, or get several results for one batch."""
    results = stream(address, batches(2, rows=limits.DOCUMENTS_PER_REQUEST_MAX + 1), 30.0)
    assert [len(chunk) for chunk in servicer.stored.values()] == [1000, 1, 1000, 1]
    assert [len(result.results) for result in results] == [1001, 1001]
    assert versions(results)[1][-1] == 4


@both
@pytest.mark.parametrize("answered", [True, False])
def test_a_broken_stream_goes_on(stream: Stream, servicer: Storing, address: str, answered: bool) -> None:
    """A restart of a router would end a bulk load, or results whose answer was lost would be missing."""
    servicer.break_after, servicer.answer_before_breaking = 3, answered
    servicer.errors = [StoreUnavailable("redis"), PartitionUnavailable("index-0"), Overloaded("queue", 0.1)]
    results = stream(address, batches(20), 30.0)
    assert versions(results) == [[n, n] for n in range(1, 21)]
    assert [ids[0] for ids in servicer.stored.values()] == [f"d{number}-0" for number in range(20)]
    assert servicer.connections == 4


@both
def test_an_interrupted_stream_is_resumed(stream: Stream, servicer: Storing, address: str) -> None:
    """A bulk load would begin anew after every interruption."""
    servicer.stored = {1: ["d0-0", "d0-1"], 2: ["d1-0", "d1-1"]}
    results = stream(address, batches(4), 30.0)
    assert versions(results) == [[None, None], [None, None], [3, 3], [4, 4]]
    assert servicer.received == 2
    again = stream(address, batches(4), 30.0)
    assert versions(again) == [[None, None]] * 4
    assert [result.token for result in again] == [None] * 4


def test_a_batch_that_was_stored_in_part_says_so(servicer: Storing, address: str) -> None:
    """Results would be taken for those of other documents."""
    servicer.stored = {1: ["stored"] * 1000}
    [result] = blocking(address, batches(1, rows=1500), 30.0)
    assert versions([result]) == [[None] * 1000 + [2] * 500]


@both
def test_one_bad_document_concerns_that_one_only(stream: Stream, servicer: Storing, address: str) -> None:
    """One wrong document would end the load of a million."""
    [result] = stream(address, [Batch(["a", "bad"], embeddings=np.ones((2, 4)))], 30.0)
    assert [(each.status, each.error) for each in result.results if each] == [("applied", ""), ("invalid", "bad")]


@both
def test_a_refused_stream_raises(stream: Stream, servicer: Storing, address: str) -> None:
    """A hopeless load would be repeated until the time is up, or end as if it had succeeded."""
    servicer.errors = [InvalidRequest("collection: empty")]
    with pytest.raises(InvalidRequest, match="collection: empty"):
        stream(address, batches(3), 30.0)
    assert servicer.connections == 1


@both
def test_patience_ends(stream: Stream, servicer: Storing, address: str) -> None:
    """A load would hang for ever while a deployment is down, or not say why it ended."""
    servicer.errors = [StoreUnavailable("redis is down")] * 1000
    started = time.monotonic()
    with pytest.raises(StoreUnavailable, match="redis is down"):
        stream(address, batches(3), 1.0)
    assert time.monotonic() - started < 5.0
    with pytest.raises(PartitionUnavailable):
        stream(f"127.0.0.1:{free_port()}", batches(3), 0.5)


@both
def test_a_server_that_hangs_is_given_up(stream: Stream, servicer: Storing, address: str) -> None:
    """A load would hang for ever behind a server that neither answers nor dies."""
    servicer.held.clear()
    with pytest.raises(DeadlineSpent, match="no answer within"):
        stream(address, batches(3), 1.0)


def test_a_pause_of_the_source_may_be_long(servicer: Storing, address: str) -> None:
    """A stream that a server ended because nothing came would fail when something comes."""

    def pausing() -> Iterator[Batch]:
        for number, batch in enumerate(batches(6)):
            if number == 3:
                time.sleep(0.5)
            yield batch

    servicer.break_after, servicer.errors = 2, [DeadlineSpent("nothing came")]
    assert versions(blocking(address, pausing(), 30.0)) == [[n, n] for n in range(1, 7)]
    assert servicer.connections == 2


@both
def test_an_error_of_the_source_is_the_callers(stream: Stream, servicer: Storing, address: str) -> None:
    """An error while data is read would be taken for one of the connection, and the load end half done, silently."""

    def failing() -> Iterator[Batch]:
        yield from batches(2)
        raise StoreUnavailable("of another store")

    with pytest.raises(StoreUnavailable, match="of another store"):
        stream(address, failing(), 30.0)
    assert servicer.connections == 1


def test_only_what_has_no_answer_is_kept(servicer: Storing, address: str) -> None:
    """A load would need the memory of all its data, or run far ahead of a slow deployment."""
    made: list[weakref.ref[Batch]] = []

    def tracked() -> Iterator[Batch]:
        for batch in batches(30):
            made.append(weakref.ref(batch))
            yield batch

    servicer.held.clear()
    with Client(address) as client:
        results = client.upsert_stream("docs", tracked(), stream_id="s")
        waiting = threading.Thread(target=lambda: next(results), daemon=True)
        waiting.start()
        time.sleep(0.5)
        assert len(made) == CHUNKS_IN_FLIGHT_MAX + 1, "batches are taken only when there is room for them"
        servicer.held.set()
        waiting.join(20.0)
        for _ in results:
            assert sum(batch() is not None for batch in made) <= 2
    assert len(servicer.stored) == 30


def test_an_abandoned_stream_ends_its_call(servicer: Storing, address: str) -> None:
    """Every stream that is not read to its end would keep a place at the router."""
    with Client(address) as client:
        results = client.upsert_stream("docs", batches(50), stream_id="s")
        next(results)
        results.close()
        received = servicer.received
        time.sleep(0.3)
        assert servicer.received <= received + CHUNKS_IN_FLIGHT_MAX
        names = [thread.name for thread in threading.enumerate()]
    assert "csr-upsert-stream" not in names
