"""How much work may wait: as much as takes so long at the rate that was measured. More is refused at once.

Work is charged by what the engine expects of it, which grows with the postings that a search touches and is known
before it begins. A queue that is bounded by requests would be too long for dear ones and too short for cheap ones.
"""

from typing import Final

from services.runtime import metrics
from services.runtime.errors import Overloaded

FIRST_RATE: Final = 1e9
"""Work that a thread does in a second, in nanoseconds of the engine's estimates, until that has been measured."""
_MEMORY: Final = 0.98
"""Weight of all earlier measurements when the next one comes."""
_RETRY_SECONDS_MIN: Final = 0.01


class Admission:
    """Knows the work that is queued or being done, and how fast it is done. Belongs to one event loop.

    Args:
        threads: How many work at it.
        queue_seconds: Longest that new work may have to wait.
    """

    def __init__(self, threads: int, queue_seconds: float) -> None:
        self._threads = threads
        self._queue_seconds = queue_seconds
        self._queued = 0
        self._work, self._seconds = FIRST_RATE, 1.0

    @property
    def wait_seconds(self) -> float:
        """How long work would wait that came now."""
        return self._queued * self._seconds / (self._work * self._threads)

    def admit(self, cost: int, remaining: float) -> None:
        """Charge for work that is about to be queued; all of it must be given back by `done`.

        Args:
            cost: As the engine estimates it. An idle server takes any.
            remaining: Seconds until the deadline of who wants it.

        Raises:
            Overloaded: it would wait for too long, or beyond its deadline.
        """
        wait = self.wait_seconds
        if self._queued and wait > min(self._queue_seconds, remaining):
            metrics.counter(metrics.INDEX_OVERLOADED).inc()
            raise Overloaded(f"{wait:.2f} s of work are queued; try again then", max(wait, _RETRY_SECONDS_MIN))
        self._queued += cost

    def done(self, cost: int, seconds: float | None = None) -> None:
        """Give back what was charged, and learn how long it took; None when it was not done."""
        self._queued -= cost
        if seconds is not None:
            self._work = _MEMORY * self._work + cost
            self._seconds = _MEMORY * self._seconds + seconds
