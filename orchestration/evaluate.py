"""How good an adapter's codes are, measured through the index that will serve them, against exact dense search."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from csr_model import Codes, CSRAdapter, metrics
from csr_model.errors import ArtifactCorrupt
from services.index.core import code
from services.index.core.index import SparseIndex

NEIGHBOURS: Final = 10
"""Neighbours compared by every recall."""
RERANKED: Final = 50
"""Hits that are re-ranked with the original embeddings, as a search can ask for."""
BYTES_PER_LATENT: Final = 4
"""A stored latent: two bytes of number, two of weight."""

_EXACTNESS_QUERIES: Final = 200
_QUERIES_PER_CHUNK: Final = 256
_DOCUMENTS_PER_CHUNK: Final = 4_096
_NOTHING: Final = -1
"""Row number where a query has fewer hits than asked for."""

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class LevelQuality:
    """Quality at one k, on both sides.

    Attributes:
        k: Active latents of queries and documents.
        one_nn: Share of queries whose best hit has their label; None without labels.
        recall: Mean share of the 10 nearest documents by dense cosine among the 10 best hits.
        recall_reranked: The same after re-ranking the 50 best hits with the embeddings.
        exactness: Share of the index's hits that plain brute force over the same codes puts in the same place;
            1.0 unless the index is broken.
        nmse: Σ‖x' − x̂‖² / Σ‖x' − x̄'‖² over the queries' embeddings.
        dead_share: Share of latents that no query uses.
        posting_skew: Σ p_j² over documents, p_j the share of them under latent j: postings met per query and
            document; k²/h if use were even.
        bytes_per_vector: Of a stored code, mean over documents.
    """

    k: int
    one_nn: float | None
    recall: float
    recall_reranked: float
    exactness: float
    nmse: float
    dead_share: float
    posting_skew: float
    bytes_per_vector: float


@dataclass(frozen=True)
class Evaluation:
    """One adapter on one set of documents and held-out queries.

    Attributes:
        fingerprint: Of the adapter.
        hidden_dim: Number of its latents.
        supervised: Trained with labels; its codes then are not meant to keep dense neighbours.
        parity: The adapter encodes its reference embeddings here as it did where it was trained.
        documents: Number of documents.
        queries: Number of queries.
        dense_one_nn: 1-NN accuracy of exact dense search; None without labels.
        dense_bytes_per_vector: Of a float32 embedding.
        levels: By k ascending.
    """

    fingerprint: str
    hidden_dim: int
    supervised: bool
    parity: bool
    documents: int
    queries: int
    dense_one_nn: float | None
    dense_bytes_per_vector: int
    levels: tuple[LevelQuality, ...]

    def as_metrics(self) -> dict[str, float]:
        """Return every number by name, such as `recall.k32`; what was not measured is left out."""
        values: dict[str, float | None] = {"dense_one_nn": self.dense_one_nn}
        for level in self.levels:
            measured = {name: value for name, value in vars(level).items() if name != "k"}
            values |= {f"{name}.k{level.k}": value for name, value in measured.items()}
        return {name: value for name, value in values.items() if value is not None}


def evaluate(
    adapter: CSRAdapter,
    documents: Floats,
    queries: Floats,
    document_labels: NDArray[Any] | None = None,
    query_labels: NDArray[Any] | None = None,
    levels: Sequence[int] | None = None,
) -> Evaluation:
    """Encode documents and held-out queries, search at each level, and compare with exact dense search.

    Args:
        adapter: To judge.
        documents: [n, d], n ≥ 50; usually the training rows.
        queries: [q, d], none of them a document.
        document_labels: [n]; given together with query_labels, or not at all.
        query_labels: [q].
        levels: Of the adapter's levels; all by default.

    Raises:
        InvalidVector: Embeddings that the adapter cannot encode.
    """
    levels = tuple(sorted(levels or adapter.levels))
    stored, asked = adapter.encode(documents, adapter.k_max), adapter.encode(queries, adapter.k_max)
    index = index_of(adapter, stored)
    expected = metrics.dense_neighbours(documents, queries, NEIGHBOURS)
    missed = adapter.reconstruction_nmse(queries)
    unit_documents, unit_queries = unit(documents), unit(queries)

    def at_level(k: int) -> LevelQuality:
        hits = sparse_neighbours(index, asked, k, RERANKED)
        reranked = _rerank(hits, unit_documents, unit_queries)
        usage = metrics.usage_histogram(stored.prefix(k), adapter.hidden_dim)
        return LevelQuality(
            k=k,
            one_nn=_one_nn(hits, document_labels, query_labels),
            recall=metrics.recall(hits[:, :NEIGHBOURS], expected),
            recall_reranked=metrics.recall(reranked[:, :NEIGHBOURS], expected),
            exactness=exactness(hits[:_EXACTNESS_QUERIES, :NEIGHBOURS], stored, asked, k, adapter.hidden_dim),
            nmse=missed[k],
            dead_share=metrics.unused_share(metrics.usage_histogram(asked.prefix(k), adapter.hidden_dim)),
            posting_skew=metrics.posting_skew(usage, len(documents)),
            bytes_per_vector=BYTES_PER_LATENT * float(usage.sum()) / len(documents),
        )

    return Evaluation(
        fingerprint=adapter.fingerprint,
        hidden_dim=adapter.hidden_dim,
        supervised=float(adapter.manifest.training["gamma"]) > 0,
        parity=_has_parity(adapter),
        documents=len(documents),
        queries=len(queries),
        dense_one_nn=_one_nn(expected, document_labels, query_labels),
        dense_bytes_per_vector=documents.shape[1] * 4,
        levels=tuple(at_level(k) for k in levels),
    )


def index_of(adapter: CSRAdapter, stored: Codes[Any]) -> SparseIndex:
    """Return an index over codes at k_max; ids are row numbers, padded so that they sort alike."""
    index = SparseIndex(adapter.hidden_dim, adapter.k_max)
    index.upsert([f"{row:010d}" for row in range(len(stored.latents))], stored.latents, stored.weights)
    return index


def sparse_neighbours(index: SparseIndex, asked: Codes[Any], k: int, top_n: int) -> Rows:
    """Return the rows that the index finds, [q, top_n] best first, −1 behind the last hit."""
    rows = np.full((len(asked.latents), top_n), _NOTHING, np.int64)
    for query, hits in enumerate(index.search(asked.latents, asked.weights, top_n, k=k)):
        rows[query, : len(hits)] = [int(name) for name, _ in hits]
    return rows


def exactness(found: Rows, stored: Codes[Any], asked: Codes[Any], k: int, hidden_dim: int) -> float:
    """Return the share of places in `found` that plain brute force over the same codes fills alike, 0 … 1.

    Brute force follows the definition of the score in docs/architecture.md, Σ q̂·d̂ / √(Σq̂² · Σd̂²), in float64, where
    sums of these integers are exact in any order; then score descending, row ascending, positive scores only.

    Args:
        found: [m, top_n], the index's answers to the first m queries.
        stored: Document codes.
        asked: Query codes.
        k: Active latents of both.
        hidden_dim: h.
    """
    count, top_n = found.shape
    queries = _quantised(asked.latents[:count], asked.weights[:count], k, hidden_dim)
    best_scores: NDArray[np.float64] = np.zeros((count, 0))
    best_rows: Rows = np.zeros((count, 0), np.int64)
    for start in range(0, len(stored.latents), _DOCUMENTS_PER_CHUNK):
        chunk = slice(start, start + _DOCUMENTS_PER_CHUNK)
        documents = _quantised(stored.latents[chunk], stored.weights[chunk], k, hidden_dim)
        squares = (queries**2).sum(1)[:, None] * (documents**2).sum(1)
        scores = np.divide(queries @ documents.T, np.sqrt(squares), out=np.zeros_like(squares), where=squares > 0)
        best_scores = np.hstack([best_scores, scores])
        best_rows = np.hstack([best_rows, np.broadcast_to(start + np.arange(len(documents)), scores.shape)])
        order = np.argsort(-best_scores, axis=1, kind="stable")[:, :top_n]  # stable: rows ascend already
        best_scores = np.take_along_axis(best_scores, order, axis=1)
        best_rows = np.take_along_axis(best_rows, order, axis=1)
    expected = np.full_like(found, _NOTHING)
    expected[:, : best_rows.shape[1]] = np.where(best_scores > 0, best_rows, _NOTHING)
    return float((found == expected).mean())


def unit(embeddings: Floats) -> Floats:
    """Return rows scaled to length 1, as float32."""
    rows = np.asarray(embeddings, np.float32)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def _quantised(latents: NDArray[Any], weights: NDArray[Any], k: int, hidden_dim: int) -> NDArray[np.float64]:
    """Return stored weights cut to k as dense rows."""
    codes = code.with_width(code.quantise(latents, weights, hidden_dim=hidden_dim, active_max=latents.shape[1]), k)
    dense = np.zeros((len(latents), hidden_dim))
    # Padding names latent 0 with weight 0: adding leaves a true latent 0 alone.
    np.add.at(dense, (np.arange(len(latents))[:, None], codes.latents), codes.weights)
    return dense


def _rerank(hits: Rows, documents: Floats, queries: Floats) -> Rows:
    """Return the same hits by dense cosine, best first."""
    parts = []
    for start in range(0, len(hits), _QUERIES_PER_CHUNK):
        rows = hits[start : start + _QUERIES_PER_CHUNK]
        cosines = np.einsum("qnd,qd->qn", documents[rows], queries[start : start + _QUERIES_PER_CHUNK])
        order = np.argsort(-np.where(rows == _NOTHING, -np.inf, cosines), axis=1, kind="stable")
        parts.append(np.take_along_axis(rows, order, axis=1))
    return np.concatenate(parts)


def _one_nn(neighbours: Rows, document_labels: NDArray[Any] | None, query_labels: NDArray[Any] | None) -> float | None:
    if document_labels is None or query_labels is None:
        return None
    first = neighbours[:, 0]
    return float(((first != _NOTHING) & (document_labels[first] == query_labels)).mean())


def _has_parity(adapter: CSRAdapter) -> bool:
    try:
        adapter.verify_parity()
    except ArtifactCorrupt:
        return False
    return True
