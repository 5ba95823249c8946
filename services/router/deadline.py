"""The time that a request has left, shared by everything done on its behalf."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import grpc

from services.runtime.errors import DeadlineSpent

_ANSWER_SECONDS: Final = 0.01
"""Kept back from calls downstream, so that our own answer, which says what was slow, comes before the deadline."""


@dataclass(frozen=True)
class Deadline:
    """The moment (time.monotonic) at which nobody waits for the answer any more."""

    moment: float

    @staticmethod
    def of(context: "grpc.aio.ServicerContext[Any, Any]", default_seconds: float) -> "Deadline":
        """Return the deadline that the caller set, else one in `default_seconds`."""
        remaining = context.time_remaining()
        return Deadline.after(default_seconds if remaining is None else remaining)

    @staticmethod
    def after(seconds: float) -> "Deadline":
        """Return the deadline in some seconds."""
        return Deadline(time.monotonic() + seconds)

    def remaining(self) -> float:
        """Seconds that a call made now may take.

        Raises:
            DeadlineSpent: none are left.
        """
        seconds = self.moment - _ANSWER_SECONDS - time.monotonic()
        if seconds <= 0:
            raise DeadlineSpent("the deadline passed before the request was answered")
        return seconds

    @asynccontextmanager
    async def enforced(self) -> AsyncIterator[None]:
        """Stop the block when the deadline passes.

        Raises:
            DeadlineSpent: it passed.
        """
        try:
            async with asyncio.timeout(self.remaining()):
                yield
        except TimeoutError:
            raise DeadlineSpent("the deadline passed before the request was answered") from None
