"""Codes searched through the index that will serve them, at any k on either side; and brute force to check it."""

import os
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from csr_model import Codes
from orchestration.evaluate_answers import NEIGHBOURS, Floats, Rows
from services.index.core import code
from services.index.core.index import SparseIndex

RERANKED: Final = 50
"""Hits that are re-ranked with the original embeddings, as a search can ask for."""
NOTHING: Final = -1
"""Row number where a query has fewer hits than asked for."""

_EXACTNESS_QUERIES: Final = 200
_EXACTNESS_CHUNK: Final = 25
_QUERIES_PER_SEARCH: Final = 1_000
_QUERIES_PER_CHUNK: Final = 256


@dataclass(frozen=True, eq=False)
class CodeSearch:
    """Codes of documents in a real index, codes of queries, and the embeddings of both for re-ranking.

    Attributes:
        index: Over the document codes; ids are row numbers.
        stored: Document codes at k_max.
        asked: Query codes, as wide as any k_query.
        documents: [n, d], of unit length.
        queries: [q, d], of unit length.
    """

    index: SparseIndex
    stored: Codes[Any]
    asked: Codes[Any]
    documents: Floats
    queries: Floats

    @classmethod
    def of(cls, hidden_dim: int, stored: Codes[Any], asked: Codes[Any], documents: Floats, queries: Floats) -> Self:
        """Build the index."""
        return cls(index_of(hidden_dim, stored), stored, asked, documents, queries)

    def hits(self, k_query: int, k_docs: int, top_n: int) -> Rows:
        """Return the rows that the index finds, see `sparse_neighbours`."""
        return sparse_neighbours(self.index, self.asked, k_query, k_docs, top_n)

    def reranked(self, hits: Rows) -> Rows:
        """Return the 50 best hits by dense cosine, best first, [q, 50]."""
        best = hits[:, :RERANKED]
        cosines = np.full(best.shape, -np.inf, np.float32)
        for start in range(0, len(best), _QUERIES_PER_CHUNK):
            chunk = slice(start, start + _QUERIES_PER_CHUNK)
            cosines[chunk] = np.matmul(self.documents[best[chunk]], self.queries[chunk, :, None])[:, :, 0]
        order = np.argsort(-np.where(best == NOTHING, -np.inf, cosines), axis=1, kind="stable")
        return np.take_along_axis(best, order, axis=1)

    def exactness(self, hits: Rows, k_query: int, k_docs: int) -> float:
        """Return `exactness` of the first hits of the first 200 queries."""
        found = hits[:_EXACTNESS_QUERIES, :NEIGHBOURS]
        return exactness(found, self.stored, self.asked, k_query, k_docs, self.index.hidden_dim)


def index_of(hidden_dim: int, stored: Codes[Any]) -> SparseIndex:
    """Return an index over codes at k_max; ids are row numbers, padded so that they sort alike."""
    index = SparseIndex(hidden_dim, stored.latents.shape[1])
    index.upsert([f"{row:010d}" for row in range(len(stored.latents))], stored.latents, stored.weights)
    return index


def sparse_neighbours(index: SparseIndex, asked: Codes[Any], k_query: int, k_docs: int, top_n: int) -> Rows:
    """Return the rows that the index finds, [q, top_n] best first, −1 behind the last hit."""
    threads = len(os.sched_getaffinity(0))
    rows = np.full((len(asked.latents), top_n), NOTHING, np.int64)
    for start in range(0, len(rows), _QUERIES_PER_SEARCH):
        chunk = slice(start, start + _QUERIES_PER_SEARCH)
        latents, weights = asked.latents[chunk], asked.weights[chunk]
        answers = index.search(latents, weights, top_n, k_query=k_query, k_docs=k_docs, threads=threads)
        for query, hits in enumerate(answers, start):
            rows[query, : len(hits)] = [int(name) for name, _ in hits]
    return rows


def exactness(found: Rows, stored: Codes[Any], asked: Codes[Any], k_query: int, k_docs: int, hidden_dim: int) -> float:
    """Return the share of places in `found` that plain brute force over the same codes fills alike, 0 … 1.

    Brute force follows the definition of the score in docs/architecture.md, Σ q̂·d̂ / √(Σq̂² · Σd̂²), in float64, where
    sums of these integers are exact in any order; then score descending, row ascending, positive scores only.

    Args:
        found: [m, top_n], the index's answers to the first m queries.
        stored: Document codes.
        asked: Query codes.
        k_query: Active latents of the queries.
        k_docs: Active latents of the documents.
        hidden_dim: h.
    """
    count, top_n = found.shape
    queries = _quantised(Codes(asked.latents[:count], asked.weights[:count]), k_query, hidden_dim)
    documents = _quantised(stored, k_docs, hidden_dim)
    query_squares, squares = (np.asarray(part.multiply(part).sum(axis=1)).ravel() for part in (queries, documents))
    by_latent = documents.T.tocsr()
    expected = np.full_like(found, NOTHING)
    for start in range(0, count, _EXACTNESS_CHUNK):
        products = queries[start : start + _EXACTNESS_CHUNK] @ by_latent
        for query, (first, last) in enumerate(zip(products.indptr[:-1], products.indptr[1:], strict=True), start):
            rows = products.indices[first:last]
            scores = products.data[first:last] / np.sqrt(query_squares[query] * squares[rows])
            best = _best(scores, rows, top_n)
            expected[query, : len(best)] = best
    return float((found == expected).mean())


def unit(embeddings: Floats) -> Floats:
    """Return rows scaled to length 1, as float32."""
    rows = np.asarray(embeddings, np.float32)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def sparse_matrix(codes: Codes[Any], hidden_dim: int) -> scipy.sparse.csr_matrix:
    """Return codes as a scipy matrix [n, h] without the padding; weights keep their type."""
    active = codes.weights > 0
    starts = np.concatenate([[0], np.cumsum(active.sum(axis=1))])
    shape = (len(codes.latents), hidden_dim)
    return scipy.sparse.csr_matrix((codes.weights[active], codes.latents[active].astype(np.int32), starts), shape)


def _quantised(codes: Codes[Any], k: int, hidden_dim: int) -> scipy.sparse.csr_matrix:
    """Return stored weights cut to k, in float64."""
    whole = code.quantise(codes.latents, codes.weights, hidden_dim=hidden_dim, active_max=codes.latents.shape[1])
    cut = code.with_width(whole, k)
    return sparse_matrix(Codes(cut.latents, cut.weights.astype(np.float64)), hidden_dim)


def _best(scores: NDArray[np.float64], rows: NDArray[Any], top_n: int) -> NDArray[Any]:
    """Return the first top_n rows by score descending, then row ascending."""
    if len(scores) > top_n:
        kept = scores >= np.partition(scores, -top_n)[-top_n]  # ties at the last place included
        scores, rows = scores[kept], rows[kept]
    return np.asarray(rows[np.lexsort((rows, -scores))][:top_n])
