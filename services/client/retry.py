"""When to repeat a call: while a deployment is UNAVAILABLE or overloaded; nothing else passes by itself."""

import random
import time
from typing import Final

import grpc

from services.runtime.errors import CsrError, DeadlineSpent, Overloaded, status_of

_FIRST_PAUSE_SECONDS: Final = 0.1
_LONGEST_PAUSE_SECONDS: Final = 1.0
_LEAST_ATTEMPT_SECONDS: Final = 0.001
_JITTER: Final = 0.25
"""Of the delay that an overloaded server asks for, so that the clients it sent away do not come back as one."""


class Budget:
    """The total time of one call of the client, retries included."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self._failures = 0
        self._cause: CsrError | None = None

    def remaining(self) -> float:
        """Seconds that the next attempt may take."""
        return max(self._end - time.monotonic(), _LEAST_ATTEMPT_SECONDS)

    def pause(self, error: CsrError) -> float:
        """Return the seconds to wait before the next attempt.

        Raises:
            CsrError: there is none, because the error stays, or the time is up. When it ended in the middle of a
                repeat, that is what made the repeat necessary, not the deadline.
        """
        if isinstance(error, DeadlineSpent) and self._cause is not None:
            raise self._cause
        if not _passes(error):
            raise error
        seconds = self._backoff(error)
        if seconds >= self._end - time.monotonic():
            raise error
        self._cause = error
        self._failures += 1
        return seconds

    def _backoff(self, error: CsrError) -> float:
        if isinstance(error, Overloaded):
            return error.retry_seconds * random.uniform(1.0, 1.0 + _JITTER)
        return random.uniform(0.0, min(_FIRST_PAUSE_SECONDS * 2**self._failures, _LONGEST_PAUSE_SECONDS))


def _passes(error: CsrError) -> bool:
    return isinstance(error, Overloaded) or status_of(error) is grpc.StatusCode.UNAVAILABLE
