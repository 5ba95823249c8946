"""Ten million documents in a process of their own: what it holds, how fast it is filled and searched."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import psutil

from benchmarks.index_search import oracle
from benchmarks.index_search.codes import TOP_N, Floats, Latents
from services.index.core.index import SparseIndex
from services.index.core.warmup import warmup

K = 32
QUERIES = 200
WARM_UP_QUERIES = 50
Blocks = Iterator[tuple[Latents, Floats]]


@dataclass(frozen=True)
class TenMillion:
    """One large index in its own process.

    Attributes:
        documents: In the end.
        k: Of the index.
        hidden_dim: h.
        segments: In the end.
        start_bytes: Resident before the first document: libraries, and kernels once used.
        steady_bytes: Resident when all merges are done, everything included.
        merge_bytes: Most resident at any moment of filling and merging.
        index_bytes: Of the index's arrays, by its own count.
        build_rate: Documents a second, merges included.
        p50_ms: One query on one thread.
        p95_ms: The same.
        identical: Whether every id and score is that of the brute force.
    """

    documents: int
    k: int
    hidden_dim: int
    segments: int
    start_bytes: int
    steady_bytes: int
    merge_bytes: int
    index_bytes: int
    build_rate: float
    p50_ms: float
    p95_ms: float
    identical: bool


def ten_million(
    blocks: Blocks, latents: Latents, weights: Floats, hidden_dim: int, say: Callable[[str], None]
) -> TenMillion:
    """Send documents to a new process block by block, which indexes them, and compare its answers with brute force.

    Args:
        blocks: (latents, weights) of documents, [b, k].
        latents: Of QUERIES queries.
        weights: The same.
        hidden_dim: h.
        say: Called with a line of progress.
    """
    best = oracle.Best(latents, weights, hidden_dim)
    here, there = get_context("spawn").Pipe()
    process = get_context("spawn").Process(target=_serve, args=(there, hidden_dim), daemon=True)
    process.start()
    start = here.recv()
    documents, seconds = 0, 0.0
    for block in blocks:
        here.send(block)
        best.add(*block, documents)
        documents += len(block[0])
        seconds += here.recv()
        say(f"  {documents:,} documents, {documents / seconds:,.0f}/s")
    here.send(None)
    here.send((latents, weights))
    found: dict[str, Any] = here.recv()
    process.join()
    milliseconds = np.array(found["nanoseconds"][WARM_UP_QUERIES:]) / 1e6
    return TenMillion(
        documents=documents,
        k=K,
        hidden_dim=hidden_dim,
        segments=found["segments"],
        start_bytes=start,
        steady_bytes=found["steady_bytes"],
        merge_bytes=found["merge_bytes"],
        index_bytes=found["index_bytes"],
        build_rate=documents / (seconds + found["settle_seconds"]),
        p50_ms=float(np.percentile(milliseconds, 50)),
        p95_ms=float(np.percentile(milliseconds, 95)),
        identical=all(
            oracle.is_identical(hits, truth) for hits, truth in zip(found["hits"], best.truth(), strict=True)
        ),
    )


def _serve(parent: "Connection[Any, Any]", hidden_dim: int) -> None:
    """Index blocks until None comes, then answer queries."""
    warmup()
    index, documents = SparseIndex(hidden_dim, K), 0
    parent.send(_resident())
    with _peak() as peak:
        while (block := parent.recv()) is not None:
            ids = [f"{documents + row:08d}" for row in range(len(block[0]))]
            documents += len(ids)
            started = time.perf_counter()
            index.upsert(ids, *block)
            parent.send(time.perf_counter() - started)
            del block, ids
        started = time.perf_counter()
        index.settle()
        settle_seconds = time.perf_counter() - started
    steady = _resident()
    latents, weights = parent.recv()
    nanoseconds, hits = [], []
    for query in range(len(latents)):
        begin = time.perf_counter_ns()
        hits += index.search(latents[query : query + 1], weights[query : query + 1], TOP_N)
        nanoseconds.append(time.perf_counter_ns() - begin)
    parent.send(
        {
            "segments": len(index.state.parts),
            "steady_bytes": steady,
            "merge_bytes": max(*peak, steady),
            "index_bytes": index.statistics().bytes,
            "settle_seconds": settle_seconds,
            "nanoseconds": nanoseconds,
            "hits": hits,
        }
    )


def _resident() -> int:
    return int(psutil.Process().memory_info().rss)


@contextmanager
def _peak() -> Iterator[list[int]]:
    """Sample what the process holds, every 20 ms while it is open."""
    sampled, done = [_resident()], threading.Event()

    def sample() -> None:
        while not done.wait(0.02):
            sampled.append(_resident())

    thread = threading.Thread(target=sample)
    thread.start()
    yield sampled
    done.set()
    thread.join()
