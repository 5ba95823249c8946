"""What a method has achieved on a problem: rankings, from codes by the exact index or from vectors by brute force."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from benchmarks.comparison.problem import TOP_N, Floats, Problem, Rows
from csr_model import Codes, metrics
from services.index.core.index import SparseIndex

KS = (4, 8, 16, 32, 64)
"""Active latents, or dimensions, that methods are compared at."""
FAT_QUERY_K = 64
"""Latents of queries where they have more than the documents."""

Encode = Callable[[Floats, int], Codes[Any]]


class Outcome(NamedTuple):
    """Everything that is kept of a training.

    Attributes:
        rankings: Variant → best documents of each query, int64 [q, 10], −1 where a ranking has ended. Variants are
            `k8` (8 active latents or dimensions), `k8q64` (documents 8, queries 64) and `64B` (64 bytes a document).
        dead_shares: Variant → share of latents that no query uses; codes only.
        seconds: Of processor time on one thread, for training.
        rows_seen: By training, repetitions included.
        choice: What the method decided by itself, as far as it names it.
    """

    rankings: dict[str, Rows]
    dead_shares: dict[str, float]
    seconds: float
    rows_seen: int
    choice: str = ""


class Clock:
    """Processor seconds of this process: unlike the wall clock, not slowed down by other processes."""

    def __init__(self) -> None:
        self._started = time.process_time()
        self.seconds = 0.0

    def stop(self) -> None:
        """Keep the seconds since the start."""
        self.seconds = time.process_time() - self._started


@contextmanager
def training_clock() -> Iterator[Clock]:
    """Measure the body."""
    clock = Clock()
    yield clock
    clock.stop()


def outcome_of_codes(
    problem: Problem, encode: Encode, hidden_dim: int, ks: Sequence[int], seconds: float, rows_seen: int
) -> Outcome:
    """Search codes, exactly and as the service does, with equal k and, for several ks, with fat queries.

    Args:
        problem: Documents and queries.
        encode: (embeddings, k) → codes of unit length.
        hidden_dim: h.
        ks: The largest is stored, prefixes serve the others.
        seconds: Of training.
        rows_seen: In training.
    """
    documents, queries = encode(problem.documents, max(ks)), encode(problem.queries, max(ks))
    index = SparseIndex(hidden_dim, max(ks))
    index.upsert([f"{row:010d}" for row in range(len(problem.documents))], documents.latents, documents.weights)
    rankings = {f"k{k}": _index_ranking(index, queries, k, k) for k in ks}
    if len(ks) > 1 and problem.relevant is not None:
        rankings |= {
            f"k{k}q{FAT_QUERY_K}": _index_ranking(index, queries, k, FAT_QUERY_K) for k in ks if k < FAT_QUERY_K
        }
    dead = {f"k{k}": metrics.unused_share(metrics.usage_histogram(queries.prefix(k), hidden_dim)) for k in ks}
    return Outcome(rankings, dead, seconds, rows_seen)


def outcome_of_vectors(
    problem: Problem, transform: Callable[[Floats], Floats], dims: Sequence[int], seconds: float, rows_seen: int
) -> Outcome:
    """Search the first dimensions of vectors, documents rounded to float16, by cosine.

    A number of dimensions is a variant of its own, `k8`, and one of so many bytes, `16B`.
    """
    documents, queries = transform(problem.documents), transform(problem.queries)
    rankings: dict[str, Rows] = {}
    for dim in dims:
        ranking = vector_ranking(documents[:, :dim].astype(np.float16).astype(np.float32), queries[:, :dim])
        rankings |= {f"k{dim}": ranking, f"{2 * dim}B": ranking}
    return Outcome(rankings, {}, seconds, rows_seen)


def vector_ranking(documents: Floats, queries: Floats) -> Rows:
    """Return each query's best documents by cosine, [q, 10]."""
    return np.asarray(metrics.dense_neighbours(documents, queries, TOP_N), np.int64)


def _index_ranking(index: SparseIndex, queries: Codes[Any], k_docs: int, k_query: int) -> Rows:
    ranking = np.full((len(queries.latents), TOP_N), -1, np.int64)
    for row, hits in enumerate(index.search(queries.latents, queries.weights, TOP_N, k_query=k_query, k_docs=k_docs)):
        ranking[row, : len(hits)] = [int(name) for name, _ in hits]
    return ranking
