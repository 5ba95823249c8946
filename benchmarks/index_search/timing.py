"""Latencies of engines that take turns, so that whatever else the machine does meets all of them alike."""

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.index_search.engines import AnswerAll

SLOW_SECONDS = 0.05
"""Engines that need longer for a query answer one of TURN · SLOW_TURNS only."""
SLOW_TURNS = 2
TURN = 20
UNTIMED = 5
_WARM_UP_SECONDS = 3.0
_BATCH_SECONDS = 0.15
_BATCH_QUERIES_MAX = 2_000
_BATCH_ROUNDS = 3

Answer = Callable[[int], Any]


@dataclass
class Latencies:
    """Of one engine: nanoseconds of each timed query, and the answers by query."""

    nanoseconds: list[int] = field(default_factory=list)
    answers: dict[int, Any] = field(default_factory=dict)

    def milliseconds(self, percentile: float) -> float:
        """Return a percentile of the latencies."""
        return float(np.percentile(self.nanoseconds, percentile)) / 1e6

    @property
    def mean_seconds(self) -> float:
        """Mean latency."""
        return float(np.mean(self.nanoseconds)) / 1e9


def warm_up(engines: Mapping[str, Answer], queries: Sequence[int]) -> dict[str, bool]:
    """Let every engine answer these queries, or as many as it can in a few seconds; return which are slow."""
    slow = {}
    for name, answer in engines.items():
        started, seconds = time.perf_counter(), []
        for query in queries:
            if time.perf_counter() - started > _WARM_UP_SECONDS:
                break
            before = time.perf_counter()
            answer(query)
            seconds.append(time.perf_counter() - before)
        slow[name] = bool(np.median(seconds) > SLOW_SECONDS)
    return slow


def take_turns(
    engines: Mapping[str, Answer], queries: Sequence[int], slow: Mapping[str, bool] | None = None
) -> dict[str, Latencies]:
    """Time every engine on the same queries: TURN of them in a row, then the next engine, in random order.

    A turn begins with UNTIMED other queries, so that an engine is measured with its own data in the caches, as where it
    is the only one: right after a search of all embeddings, a query of a twentieth of a millisecond takes thrice that.

    Args:
        engines: Name → answers one query.
        queries: Rows of queries, at least UNTIMED.
        slow: Names of engines that answer the first query of every SLOW_TURNS-th turn, and no others before it.
    """
    slow = slow or {}
    found = {name: Latencies() for name in engines}
    # Not a rotation: in it an engine would always follow the same one, which may have left the same data in the caches.
    random = np.random.default_rng(0)
    gc.collect()
    gc.freeze()  # the collector need not look at millions of ids again and again
    for turn, start in enumerate(range(0, len(queries), TURN)):
        for name in random.permutation(list(engines)).tolist():
            if slow.get(name):
                timed = queries[start : start + 1] if turn % SLOW_TURNS == 0 else ()
            else:
                timed = queries[start : start + TURN]
                for before in range(start - UNTIMED, start):
                    engines[name](queries[before])
            for query in timed:
                started = time.perf_counter_ns()
                answer = engines[name](query)
                found[name].nanoseconds.append(time.perf_counter_ns() - started)
                found[name].answers[query] = answer
    gc.unfreeze()
    return found


def queries_per_second(
    engines: Mapping[str, AnswerAll], seconds: Mapping[str, float], queries: int, threads: int
) -> dict[str, float]:
    """Return how many queries of a batch each engine answers in a second: the median of three rounds that alternate.

    Args:
        engines: Name → answers many queries on some threads.
        seconds: Name → of one query on one thread; decides how large a batch is.
        queries: Number of queries; batches begin again at the first one when they are larger.
        threads: For all.
    """
    batches = {name: np.arange(_batch_queries(seconds[name], threads), dtype=np.int64) % queries for name in engines}
    rates: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(_BATCH_ROUNDS):
        for name, answer_all in engines.items():
            started = time.perf_counter()
            answer_all(batches[name], threads)
            rates[name].append(len(batches[name]) / (time.perf_counter() - started))
    return {name: float(np.median(found)) for name, found in rates.items()}


def _batch_queries(seconds: float, threads: int) -> int:
    return int(np.clip(_BATCH_SECONDS * threads / seconds, 16, _BATCH_QUERIES_MAX))
