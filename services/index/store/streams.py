"""How far streams of writes have come, so that a stream that broke is resumed where it was."""

from typing import Final

from redis.asyncio import Redis

from services.index.store.connection import store_errors
from services.index.store.keys import stream_key

STREAM_SECONDS: Final = 7 * 24 * 3600
"""How long a position is kept after it was noted last."""


async def stream_position(redis: Redis, collection_id: str, stream_id: str) -> int:
    """Return the position that was noted last; 0 for a stream that is unknown or forgotten.

    Raises:
        StoreUnavailable: Redis does not answer.
    """
    with store_errors(f"read the position of stream {stream_id!r}"):
        return int(await redis.get(stream_key(collection_id, stream_id)) or 0)


async def advance_stream(redis: Redis, collection_id: str, stream_id: str, sequence: int) -> int:
    """Note that a stream has come to `sequence`, unless it is known to be farther; return how far it is.

    Raises:
        StoreUnavailable, StoreFull: Redis does not answer or refuses.
    """
    with store_errors(f"note the position of stream {stream_id!r}"):
        key = stream_key(collection_id, stream_id)
        return int(await redis.fcall("csr_advance", 1, key, sequence, STREAM_SECONDS))
