"""When to repeat a call: UNAVAILABLE only, with exponential back-off and jitter, within a total time."""

import time
from typing import Final

import grpc
from tenacity import AsyncRetrying, Retrying, retry_if_exception, stop_before_delay, wait_random_exponential

from services.runtime.errors import CsrError, DeadlineSpent, error_from_rpc, status_of

_FIRST_PAUSE_SECONDS: Final = 0.1
_LONGEST_PAUSE_SECONDS: Final = 1.0
_LEAST_ATTEMPT_SECONDS: Final = 0.001


class Budget:
    """The total time of one call of the client, retries included."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end = time.monotonic() + seconds
        self._unavailable: CsrError | None = None

    def meaning(self, error: grpc.RpcError) -> CsrError:
        """Return the domain error behind a failed attempt.

        When the time ends in the middle of a repeat, that is what made the repeat necessary, not the deadline.
        """
        meant = error_from_rpc(error)
        if isinstance(meant, DeadlineSpent) and self._unavailable is not None:
            return self._unavailable
        if _is_unavailable(meant):
            self._unavailable = meant
        return meant

    def remaining(self) -> float:
        """Seconds that the next attempt may take."""
        return max(self._end - time.monotonic(), _LEAST_ATTEMPT_SECONDS)

    def retrying(self) -> Retrying:
        """Return a policy for blocking calls; the last error is raised as it is."""
        return Retrying(retry=_WHEN, wait=_PAUSE, stop=stop_before_delay(self._seconds), reraise=True)

    def async_retrying(self) -> AsyncRetrying:
        """Return a policy for asyncio; the last error is raised as it is."""
        return AsyncRetrying(retry=_WHEN, wait=_PAUSE, stop=stop_before_delay(self._seconds), reraise=True)


def _is_unavailable(error: BaseException) -> bool:
    return isinstance(error, CsrError) and status_of(error) is grpc.StatusCode.UNAVAILABLE


_WHEN: Final = retry_if_exception(_is_unavailable)
_PAUSE: Final = wait_random_exponential(multiplier=_FIRST_PAUSE_SECONDS, max=_LONGEST_PAUSE_SECONDS)
