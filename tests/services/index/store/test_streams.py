import asyncio

from redis.asyncio import Redis

from services.index.store.catalog import new_collection_id
from services.index.store.keys import stream_key
from services.index.store.streams import STREAM_SECONDS, advance_stream, stream_position


async def test_a_stream_never_goes_back(redis: Redis) -> None:
    """Otherwise a client that resumes would send again what is stored, or skip what is not."""
    collection = new_collection_id()
    assert await stream_position(redis, collection, "s") == 0
    sequences = [3, 1, 4, 1, 5, 9, 2, 6]
    answers = await asyncio.gather(*(advance_stream(redis, collection, "s", sequence) for sequence in sequences))
    assert max(answers) == 9
    assert all(answer >= sequence for answer, sequence in zip(answers, sequences, strict=True))
    assert await stream_position(redis, collection, "s") == 9
    assert await stream_position(redis, collection, "other") == 0
    assert await stream_position(redis, new_collection_id(), "s") == 0


async def test_streams_are_forgotten_after_a_week(redis: Redis) -> None:
    """Otherwise positions of streams would fill Redis, or be forgotten while a client still resumes."""
    collection = new_collection_id()
    await advance_stream(redis, collection, "s", 1)
    await redis.expire(stream_key(collection, "s"), 10)
    await advance_stream(redis, collection, "s", 1)
    assert STREAM_SECONDS - 60 < await redis.ttl(stream_key(collection, "s")) <= STREAM_SECONDS
