"""How far a stream has come, noted in the store without holding up the stream."""

import asyncio
from contextlib import suppress

import structlog
from redis.asyncio import Redis

from services.index.store.streams import advance_stream, stream_position
from services.runtime.errors import CsrError

log = structlog.get_logger()


class StreamPosition:
    """The position of one stream of one collection. `read` it first; after the last `advance`, `settle`.

    A position that is noted late, or not at all, does no harm: a chunk that is sent again is stored under the same
    write id.
    """

    def __init__(self, redis: Redis, collection_id: str, stream_id: str) -> None:
        self._redis = redis
        self._collection_id = collection_id
        self._stream_id = stream_id
        self._wanted = 0
        self._noting: asyncio.Task[None] | None = None

    async def read(self) -> int:
        """Return the last chunk that is known to be stored, 0 for none.

        Raises:
            StoreUnavailable: Redis does not answer.
        """
        return await stream_position(self._redis, self._collection_id, self._stream_id)

    def advance(self, sequence: int) -> None:
        """Note that every chunk up to this one is stored, soon."""
        self._wanted = max(sequence, self._wanted)
        if self._noting is None or self._noting.done():
            self._noting = asyncio.create_task(self._note())

    async def settle(self) -> None:
        """Return when the latest position is noted, or could not be."""
        if self._noting is not None:
            await self._noting

    async def _note(self) -> None:
        noted = 0
        with suppress(asyncio.CancelledError):
            try:
                while noted < self._wanted:
                    noted = self._wanted
                    await advance_stream(self._redis, self._collection_id, self._stream_id, noted)
            except CsrError as error:
                log.warning("stream position not noted", stream=self._stream_id, reason=str(error))
