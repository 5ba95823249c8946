"""UpsertStream: any number of documents, chunk by chunk.

Chunks are read and encoded ahead, a few at a time, and stored one after the other, so that of two versions of a
document in one stream the later one stays. A stream is pinned to the collection that it was opened for.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Final

from redis.asyncio import Redis

from csr.v1 import search_pb2
from services.index.store.catalog import CollectionRecord
from services.index.store.streams import advance_stream, stream_position
from services.router.capacity import largest_lag
from services.router.chunk_writer import ChunkWriter, PreparedChunk
from services.router.directory import Directory
from services.router.validation import check_size
from services.runtime import limits
from services.runtime.errors import DeadlineSpent, InvalidRequest, UnknownCollection

_READ_AHEAD: Final = 3
"""Chunks that are read and encoded beside the one that is being stored."""
_REPEATED_MAX: Final = 16
"""Chunks before the next one that may be sent again, by a client that saw no answer to them: the store knows the write
ids of these, and answers with the first results. A much older chunk would be stored over newer documents."""
_IDLE_SECONDS: Final = 300.0
"""Pause between two chunks after which a stream ends: it can be resumed, and must not hold its place for ever."""
_LAG_MAX: Final = 100_000
"""Log entries that an index server may still have to read before a stream waits for it."""
_LAG_PAUSE_SECONDS: Final = 0.2

Requests = AsyncIterator[search_pb2.UpsertStreamRequest]


class UpsertStream:
    """Carries out streams of upserts; holds no state of its own, positions are in the store."""

    def __init__(self, directory: Directory, chunks: ChunkWriter, redis: Redis) -> None:
        self._directory = directory
        self._chunks = chunks
        self._redis = redis

    async def answers(self, requests: Requests) -> AsyncGenerator[search_pb2.UpsertStreamResponse, None]:
        """Yield the position that the stream goes on from, then what became of each chunk, in order.

        Raises:
            CsrError: naming what is wrong with the stream, or what cannot be reached; resume it from the last answer.
        """
        opening = await _opening(requests)
        self._directory.check_store()
        record = await self._directory.current(opening.collection)  # the stream is pinned to it
        begin = await stream_position(self._redis, record.collection_id, opening.stream_id)
        yield search_pb2.UpsertStreamResponse(sequence=begin)
        ahead = _ReadAhead(self._chunks, record, opening.allow_truncation, begin)
        ahead.start(requests)
        try:
            while (coming := await ahead.next()) is not None:
                answer = await self._stored(opening, coming.chunk, await coming.prepared)
                # Noted before it is answered: clients forget what is answered, and could never send it again.
                await advance_stream(self._redis, record.collection_id, opening.stream_id, coming.chunk.sequence)
                yield answer
        finally:
            await ahead.stop()

    async def _stored(
        self, opening: search_pb2.UpsertStreamOpen, chunk: search_pb2.UpsertChunk, prepared: PreparedChunk
    ) -> search_pb2.UpsertStreamResponse:
        """Store a chunk under a write id of its own and answer it."""
        pinned = prepared.record.collection_id

        async def store(record: CollectionRecord) -> search_pb2.UpsertStreamResponse:
            if record.collection_id != pinned:
                raise UnknownCollection(f"collection {opening.collection!r} is another one now")
            await self._until_read(record)
            ready = prepared
            if record != ready.record:  # such as after a cut-over
                ready = await self._chunks.prepare(record, chunk, opening.allow_truncation)
            return await self._chunks.store(chunk, ready, f"{opening.stream_id}#{chunk.sequence}")

        try:
            return await self._directory.answered(opening.collection, store)
        except UnknownCollection as error:
            raise UnknownCollection(f"{error}: it was deleted while the stream wrote to it") from None

    async def _until_read(self, record: CollectionRecord) -> None:
        """Wait while an index server has far more to read than it should."""
        partitions = range(record.partitions)
        while largest_lag(self._directory.reports, self._directory.placement, record, partitions) > _LAG_MAX:
            await asyncio.sleep(_LAG_PAUSE_SECONDS)


@dataclass(frozen=True)
class _Coming:
    """A chunk that was read."""

    chunk: search_pb2.UpsertChunk
    prepared: "asyncio.Task[PreparedChunk]"


class _ReadAhead:
    """Reads the chunks of one stream, and prepares them, no faster than they are taken."""

    def __init__(self, chunks: ChunkWriter, record: CollectionRecord, allow_truncation: bool, begin: int) -> None:
        self._chunks = chunks
        self._record = record
        self._allow_truncation = allow_truncation
        self._following = begin + 1
        self._queue: asyncio.Queue[_Coming | Exception | None] = asyncio.Queue(_READ_AHEAD)
        self._tasks: list[asyncio.Task[object]] = []

    def start(self, requests: Requests) -> None:
        """Begin to read."""
        self._tasks.append(asyncio.create_task(self._read(requests)))

    async def next(self) -> _Coming | None:
        """Return the next chunk, None after the last.

        Raises:
            CsrError: what is wrong with the stream behind the chunks that were returned.
        """
        item = await self._queue.get()
        if isinstance(item, Exception):
            raise item
        return item

    async def stop(self) -> None:
        """Read no more, and give up what is being prepared."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _read(self, requests: Requests) -> None:
        try:
            while (chunk := await _next_chunk(requests)) is not None:
                await self._queue.put(_Coming(chunk, self._preparing(chunk)))
            await self._queue.put(None)
        except Exception as error:  # raised where it belongs: behind the chunks before it
            await self._queue.put(error)

    def _preparing(self, chunk: search_pb2.UpsertChunk) -> "asyncio.Task[PreparedChunk]":
        if not max(1, self._following - _REPEATED_MAX) <= chunk.sequence <= self._following:
            raise InvalidRequest(f"chunk.sequence: {chunk.sequence}, {self._following} comes next")
        self._following = max(self._following, chunk.sequence + 1)
        task = asyncio.create_task(self._chunks.prepare(self._record, chunk, self._allow_truncation))
        self._tasks = [*(known for known in self._tasks if not known.done()), task]
        return task


async def _opening(requests: Requests) -> search_pb2.UpsertStreamOpen:
    first = await _next_message(requests)
    if first is None or first.WhichOneof("message") != "open":
        raise InvalidRequest("open: the first message of a stream names collection and stream")
    check_size("open.stream_id", first.open.stream_id, limits.STREAM_ID_BYTES_MAX)
    return first.open


async def _next_chunk(requests: Requests) -> search_pb2.UpsertChunk | None:
    message = await _next_message(requests)
    if message is None:
        return None
    if message.WhichOneof("message") != "chunk":
        raise InvalidRequest("chunk: every message of a stream but the first is a chunk")
    return message.chunk


async def _next_message(requests: Requests) -> search_pb2.UpsertStreamRequest | None:
    try:
        async with asyncio.timeout(_IDLE_SECONDS):
            return await anext(requests, None)
    except TimeoutError:
        raise DeadlineSpent(f"nothing came for {_IDLE_SECONDS:g} s; resume the stream") from None
