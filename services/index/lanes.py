"""Runs searches on threads: a few queries at a time, so that one request neither blocks others nor outlives itself."""

import asyncio
import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from services.index.core.search import Hit
from services.index.generation import GenerationIndex, Published, SearchOptions
from services.runtime import metrics
from services.runtime.codec import RaggedCodes
from services.runtime.errors import DeadlineSpent

QUERIES_PER_TURN: Final = 4
"""Queries that a thread searches before it looks who waits, and whether anyone still does."""


class Lanes:
    """A pool of threads that search.

    A request never has more turns in the queue than there are threads, so a small one beside a large one waits for
    one turn, not for all of them. A request that is cancelled or out of time takes no further turn.
    """

    def __init__(self, threads: int) -> None:
        self._width = threads or os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(self._width, thread_name_prefix="search")

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
            DeadlineSpent: the deadline passed.
            InvalidVector, InvalidRequest: what the engine refuses.
        """
        loop = asyncio.get_running_loop()
        latents, weights = codes.padded()
        results: list[list[Hit]] = [[]] * len(codes)
        turns = iter([slice(begin, begin + QUERIES_PER_TURN) for begin in range(0, len(codes), QUERIES_PER_TURN)])
        busy_seconds = 0.0

        def search(turn: slice) -> tuple[list[list[Hit]], float]:
            started = time.perf_counter()
            hits = index.search(published, latents[turn], weights[turn], options, partitions)
            return hits, time.perf_counter() - started

        async def lane() -> None:
            nonlocal busy_seconds
            for turn in turns:
                if loop.time() >= deadline:
                    raise DeadlineSpent(f"deadline passed before query {turn.start} of {len(codes)} was searched")
                results[turn], seconds = await loop.run_in_executor(self._pool, search, turn)
                busy_seconds += seconds

        try:
            async with asyncio.TaskGroup() as lanes:
                for _ in range(min(self._width, -(-len(codes) // QUERIES_PER_TURN))):
                    lanes.create_task(lane())
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        metrics.histogram(metrics.INDEX_SEARCH_SECONDS).observe(busy_seconds)
        return results

    def close(self) -> None:
        """Let turns that run finish and begin no others."""
        self._pool.shutdown(cancel_futures=True)
