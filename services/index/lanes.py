"""Runs searches on threads: a few queries at a time, so that one request neither blocks others nor outlives itself."""

import asyncio
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from services.index.admission import Admission
from services.index.core.search import Hit
from services.index.generation import GenerationIndex, Published, SearchOptions
from services.runtime import metrics
from services.runtime.codec import RaggedCodes
from services.runtime.errors import DeadlineSpent

QUERIES_PER_TURN: Final = 4
"""Queries that a thread searches before it looks who waits, and whether anyone still does."""
QUERY_COST: Final = 20_000
"""What a query costs beside the engine's estimate, in its nanoseconds."""
ROW_COST: Final = 10
"""What it costs to look at a document, where all of them are looked at."""

T = TypeVar("T")


class Lanes:
    """A pool of threads that search.

    A request never has more turns in the queue than there are threads, so a small one beside a large one waits for
    one turn, not for all of them. A request that is cancelled or out of time takes no further turn.

    Args:
        threads: How many; 0 for one per core.
        queue_seconds: Longest that a request may have to wait for its first turn.
    """

    def __init__(self, threads: int, queue_seconds: float) -> None:
        self._width = threads or os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(self._width, thread_name_prefix="search")
        self.admission = Admission(self._width, queue_seconds)

    async def search(
        self,
        index: GenerationIndex,
        published: Published,
        codes: RaggedCodes,
        options: SearchOptions,
        partitions: frozenset[int],
        deadline: float,
    ) -> list[list[Hit]]:
        """Return the hits of each query, the same for any number of threads.

        Args:
            index: The generation to search.
            published: The state of it that all queries see.
            codes: Queries.
            options: As the request has them.
            partitions: Where to search.
            deadline: Time of the event loop after which no further work is begun.

        Raises:
            Overloaded: too much work is queued.
            DeadlineSpent: the deadline passed.
            InvalidVector, InvalidRequest: what the engine refuses.
        """
        latents, weights = codes.padded()
        costs = index.cost(published, latents, weights, options) + QUERY_COST
        results: list[list[Hit]] = [[]] * len(codes)
        turns = iter([slice(begin, begin + QUERIES_PER_TURN) for begin in range(0, len(codes), QUERIES_PER_TURN)])
        busy_seconds = 0.0
        charged = int(costs.sum())
        loop = asyncio.get_running_loop()
        self.admission.admit(charged, deadline - loop.time())

        def search(turn: slice) -> tuple[list[list[Hit]], float]:
            started = time.perf_counter()
            hits = index.search(published, latents[turn], weights[turn], options, partitions)
            return hits, time.perf_counter() - started

        async def lane() -> None:
            nonlocal busy_seconds, charged
            for turn in turns:
                if loop.time() >= deadline:
                    raise DeadlineSpent(f"deadline passed before query {turn.start} of {len(codes)} was searched")
                results[turn], seconds = await loop.run_in_executor(self._pool, search, turn)
                cost = int(costs[turn].sum())
                charged -= cost
                self.admission.done(cost, seconds)
                busy_seconds += seconds

        try:
            async with asyncio.TaskGroup() as lanes:
                for _ in range(min(self._width, -(-len(codes) // QUERIES_PER_TURN))):
                    lanes.create_task(lane())
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        finally:
            self.admission.done(charged)
        metrics.histogram(metrics.INDEX_SEARCH_SECONDS).observe(busy_seconds)
        return results

    async def run(self, work: Callable[[], T], rows: int, deadline: float) -> T:
        """Return the result of one piece of work.

        Args:
            work: Runs in a thread.
            rows: How many documents it looks at.
            deadline: Time of the event loop after which it is not begun.

        Raises:
            Overloaded, DeadlineSpent: as `search`.
        """
        loop = asyncio.get_running_loop()
        cost = QUERY_COST + ROW_COST * rows
        self.admission.admit(cost, deadline - loop.time())

        def begun_in_time() -> T:
            if loop.time() >= deadline:
                raise DeadlineSpent("deadline passed before the work was begun")
            return work()

        try:
            return await loop.run_in_executor(self._pool, begun_in_time)
        finally:
            self.admission.done(cost)

    def close(self) -> None:
        """Begin no further turns; those that run are not waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)
