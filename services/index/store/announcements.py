"""Hints which logs have grown, so that nobody needs to poll them all. Truth is in the logs; hints may get lost."""

import time
from typing import Any, Final

from redis.asyncio import Redis
from redis.asyncio.client import PubSub

from services.index.store.connection import store_errors
from services.index.store.keys import LOG_CHANNEL
from services.runtime.errors import StoreUnavailable

_PING_SECONDS: Final = 0.25
_SILENCE_SECONDS_MAX: Final = 5.0
"""A ping that is not answered for so long means that nothing arrives any more."""
_MESSAGES_PER_CALL: Final = 256
"""So that a storm of writes does not keep the event loop busy."""


class Announcements:
    """Listens to what csr_write announces, over a connection of its own.

    Redis answers a ping behind everything that it announced before, so an answer tells that nothing is still under way.
    What was written before `open` returned is not announced: read all logs after it. So also after an error, which ends
    the listening.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._channel: PubSub | None = None
        self._complete = 0.0
        self._pinged: float | None = None

    async def open(self) -> None:
        """Begin to listen: whatever is written after this returned will be announced.

        Raises:
            StoreUnavailable: Redis does not answer.
        """
        await self.close()
        self._channel = self._redis.pubsub()
        self._pinged, self._complete = None, time.monotonic()
        try:
            with store_errors("listen to announcements"):
                await self._channel.subscribe(LOG_CHANNEL)
                answer = await self._channel.get_message(timeout=_SILENCE_SECONDS_MAX)
            if answer is None:
                raise StoreUnavailable("listen to announcements: Redis does not answer")
        except BaseException:
            await self.close()
            raise

    async def collect(self, timeout: float) -> tuple[set[tuple[str, int]], float]:
        """Return what was announced since the last call, after at most `timeout` seconds.

        Returns:
            The partitions whose logs have grown, as (collection id, partition), perhaps none; and the time, as
            time.monotonic tells it, such that every write acknowledged before was announced by this or an earlier call,
            or happened before `open` returned.

        Raises:
            StoreUnavailable: announcements may have been missed.
        """
        if self._channel is None:
            raise StoreUnavailable("announcements: not open")
        try:
            with store_errors("announcements"):
                return await self._collect(self._channel, timeout), self._complete
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Stop listening; safe to repeat."""
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.aclose()

    async def _collect(self, channel: PubSub, timeout: float) -> set[tuple[str, int]]:
        found: set[tuple[str, int]] = set()
        message = await self._first_message(channel, timeout)
        taken = 0
        while message is not None:
            self._take(message, found)
            taken += 1
            message = await channel.get_message(timeout=0.0) if taken < _MESSAGES_PER_CALL else None
        return found

    async def _first_message(self, channel: PubSub, timeout: float) -> dict[str, Any] | None:
        deadline = time.monotonic() + timeout
        while True:
            await self._ping(channel)
            wait = min(deadline - time.monotonic(), _PING_SECONDS)
            message: dict[str, Any] | None = await channel.get_message(timeout=max(wait, 0.0))
            if message is not None or time.monotonic() >= deadline:
                return message

    async def _ping(self, channel: PubSub) -> None:
        now = time.monotonic()
        if self._pinged is None:
            if now - self._complete >= _PING_SECONDS:
                self._pinged = now
                await channel.ping(b"complete")
        elif now - self._pinged > _SILENCE_SECONDS_MAX:
            raise StoreUnavailable(f"announcements: no answer to a ping for {_SILENCE_SECONDS_MAX:g} s")

    def _take(self, message: dict[str, Any], found: set[tuple[str, int]]) -> None:
        kind, data = message["type"], message["data"]
        if kind == "message":
            collection_id, _, partition = data.decode().rpartition(":")
            found.add((collection_id, int(partition)))
        elif kind == "pong" and self._pinged is not None:
            self._complete, self._pinged = self._pinged, None
        elif kind == "subscribe":  # the client has connected again by itself, and missed something
            raise StoreUnavailable("announcements: the connection broke")
