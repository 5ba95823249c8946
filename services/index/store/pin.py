"""Trim pins: a reader that needs the log from some position on keeps it from being trimmed for a while."""

import time
from contextlib import suppress
from types import TracebackType
from typing import Final

from redis.asyncio import Redis

from services.index.store.connection import store_errors
from services.index.store.keys import partition_keys
from services.index.store.tail import PartitionTail
from services.runtime.errors import CsrError, StoreFull

PIN_SECONDS: Final = 60
"""How long a pin outlives its reader."""


class TrimPin:
    """Holds the log of a partition behind a position, inside `async with`. Call `renew` every now and then.

    A pin is a courtesy: the log keeps no more than twice its budget for it, and its reader notices what is missing.

    Attributes:
        tail: The position.
    """

    def __init__(self, redis: Redis, tail: PartitionTail, reader: str) -> None:
        self.tail = tail
        self._redis = redis
        self._reader = reader
        self._keys = partition_keys(tail.collection_id, tail.partition)
        self._held = 0.0

    async def __aenter__(self) -> "TrimPin":
        await self._hold()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(CsrError), store_errors("release a trim pin"):  # else it expires
            await self._redis.hdel(self._keys.pins, self._reader)

    async def renew(self) -> None:
        """Hold on for another while, if a good part of this one is over."""
        if time.monotonic() - self._held > PIN_SECONDS / 3:
            await self._hold()

    async def _hold(self) -> None:
        self._held = time.monotonic()
        with suppress(StoreFull), store_errors("pin a log"):  # a Redis that takes no writes trims nothing
            await self._redis.fcall(
                "csr_pin", 2, self._keys.meta, self._keys.pins, self._reader, self.tail.lsn, PIN_SECONDS
            )
