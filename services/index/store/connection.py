"""The one way to connect to Redis, and the one table that turns its errors into ours."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from redis import exceptions
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from services.runtime.errors import (
    CorruptRecord,
    CsrError,
    InvalidRequest,
    StoreFull,
    StoreUnavailable,
    WrongState,
)
from services.runtime.settings import RedisSettings

_UNAVAILABLE: Final = (
    exceptions.ConnectionError,  # refused, reset, LOADING, wrong password, no free connection
    exceptions.TimeoutError,
    exceptions.ReadOnlyError,
    exceptions.ClusterDownError,  # and MASTERDOWN
    exceptions.TryAgainError,
)

_BY_CODE: Final[Mapping[str, type[CsrError]]] = {
    "MISCONF": StoreFull,  # the disk refuses: nothing can be made durable
    "BUSY": StoreUnavailable,
    "NOREPLICAS": StoreUnavailable,
    # our functions
    "CSRCLOSED": WrongState,
    "CSRFROZEN": WrongState,
    "CSRTERM": WrongState,
    "CSRBEHIND": WrongState,
    "CSRFORMAT": WrongState,
    "CSRVERSION": WrongState,
    "CSRREUSED": InvalidRequest,
    "CSRCORRUPT": CorruptRecord,
}
"""First word of an error reply -> our error."""


def connect(settings: RedisSettings, client_name: str = "csr") -> Redis:
    """Return a client with bounded waits; it connects on first use and again after every loss.

    The client never retries by itself: after a timeout nobody knows whether a write happened, and only callers
    have the write id that makes a repeat safe. RESP2 keeps replies alike over all supported versions of redis-py.
    """
    pool = BlockingConnectionPool.from_url(
        settings.url,
        max_connections=settings.connections,
        timeout=settings.timeout_seconds,
        socket_timeout=settings.timeout_seconds,
        socket_connect_timeout=settings.timeout_seconds,
        retry=Retry(NoBackoff(), 0),
        protocol=2,
        client_name=client_name,
    )
    return Redis.from_pool(pool)


@contextmanager
def store_errors(doing: str) -> Iterator[None]:
    """Turn errors of Redis inside the block into ours; `doing` begins their text.

    Raises:
        StoreUnavailable: no answer; a write in flight may or may not have happened.
        StoreFull: Redis refuses writes for lack of memory or disk; nothing happened.
        WrongState, InvalidRequest, CorruptRecord: a function refused; nothing happened.
    """
    try:
        yield
    except exceptions.RedisError as error:
        raise store_error(doing, error) from error


def store_error(doing: str, error: exceptions.RedisError) -> Exception:
    """Return our error for one of Redis; an error that points to a bug of ours is returned as it is."""
    text = str(error).rpartition("caused error: ")[2]  # redis-py tells which command of a pipeline, with its arguments
    if isinstance(error, _UNAVAILABLE):
        return StoreUnavailable(f"{doing}: Redis does not answer: {text}")
    if isinstance(error, exceptions.OutOfMemoryError):
        return StoreFull(f"{doing}: Redis is full: {text}")
    if "unction not found" in text:
        return StoreUnavailable(f"{doing}: the csr functions are not loaded in this Redis")
    code, _, rest = text.partition(" ")
    kind = _BY_CODE.get(code)
    return kind(f"{doing}: {rest if code.startswith('CSR') else text}") if kind else error
