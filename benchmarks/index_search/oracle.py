"""The right answers, by brute force over stored codes in integers; shares no code with the kernels."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from benchmarks.index_search.codes import TOP_N, Cut, Floats, Latents, RowNumbers, blocks
from services.index.core import code

TOLERANCE = 1e-5
"""Float scores of other engines may order documents differently that are this close to each other."""


class Truth(NamedTuple):
    """Of one query: rows of the best documents and their scores, best first, then by row; all scores > 0."""

    rows: RowNumbers
    scores: NDArray[np.float64]


class Best:
    """Keeps the best documents of each query while documents are added block by block.

    Args:
        latents: [q, k] of the queries.
        weights: [q, k].
        hidden_dim: h.
        k: Of the stored codes, queries' and documents', the first k latents are compared; all by default.
    """

    def __init__(self, latents: Latents, weights: Floats, hidden_dim: int, k: int | None = None) -> None:
        quantised = _integers(latents, weights, hidden_dim, k)
        self._hidden_dim, self._k = hidden_dim, k
        self._queries = quantised.toarray().T.copy()
        self._squares = np.sum(self._queries.astype(np.float64) ** 2, axis=0)
        self._best = [Truth(np.empty(0, np.int64), np.empty(0)) for _ in range(len(latents))]

    def add(self, latents: Latents, weights: Floats, first_row: int) -> None:
        """Look at documents whose row numbers begin at `first_row`."""
        for block in blocks(len(latents), 16_384):
            documents = _integers(latents[block], weights[block], self._hidden_dim, self._k)
            squares = np.asarray(documents.multiply(documents).sum(axis=1)).ravel().astype(np.float64)
            scores = _scores((documents @ self._queries).T, self._squares[:, None] * squares)
            for query, found in enumerate(scores):
                self._best[query] = self._merged(self._best[query], found, first_row + block.start)

    def truth(self) -> list[Truth]:
        """Return the best of everything added."""
        return self._best

    def _merged(self, best: Truth, scores: NDArray[np.float64], first_row: int) -> Truth:
        least = best.scores[-1] if len(best.scores) == TOP_N else 0.0
        if len(scores) > TOP_N:
            least = max(least, float(np.partition(scores, -TOP_N)[-TOP_N]))
        near = np.flatnonzero((scores >= least) & (scores > 0))
        rows = np.concatenate([best.rows, near + first_row])
        both = np.concatenate([best.scores, scores[near]])
        order = np.lexsort((rows, -both))[:TOP_N]
        return Truth(rows[order], both[order])


def answers(cut: Cut, queries: RowNumbers, k: int | None = None) -> list[Truth]:
    """Return the truth of these queries at a level k of the cut's codes, or over all of them."""
    best = Best(cut.query_latents[queries], cut.query_weights[queries], cut.hidden_dim, k)
    best.add(cut.latents, cut.weights, 0)
    return best.truth()


def exact_scores(cut: Cut, query: int, rows: RowNumbers) -> NDArray[np.float64]:
    """Return the scores of some documents for one query."""
    asked = _integers(cut.query_latents[query : query + 1], cut.query_weights[query : query + 1], cut.hidden_dim)
    documents = _integers(cut.latents[rows], cut.weights[rows], cut.hidden_dim)
    squares = np.asarray(documents.multiply(documents).sum(axis=1)).ravel().astype(np.float64)
    dots: NDArray[np.int64] = (documents @ asked.T).toarray().ravel()
    return _scores(dots, float(asked.multiply(asked).sum()) * squares)


def is_identical(hits: Sequence[tuple[str, float]], truth: Truth) -> bool:
    """Return whether ids, which are row numbers, scores and order are those of the truth, bit for bit."""
    right = zip(truth.rows.tolist(), truth.scores.tolist(), strict=True)
    return [(int(name), score) for name, score in hits] == list(right)


def recall(cut: Cut, query: int, rows: list[int], truth: Truth) -> float:
    """Return how many of the places of the truth these rows fill, 0 … 1; ties with the last place count."""
    if not len(truth.rows):
        return 1.0
    scores = exact_scores(cut, query, np.unique(np.array(rows, np.int64)))
    return min(1.0, float(np.count_nonzero(scores >= truth.scores[-1] - TOLERANCE)) / len(truth.rows))


def dense_truth(documents: Floats, queries: Floats) -> NDArray[np.float64]:
    """Return the TOP_Nth best inner product of each query."""
    best: Floats = np.empty((len(queries), 0), np.float32)
    for block in blocks(len(documents)):
        best = np.concatenate([best, queries @ documents[block].T], axis=1)
        best = np.partition(best, -TOP_N, axis=1)[:, -TOP_N:]
    least: NDArray[np.float64] = best.min(axis=1).astype(np.float64)
    return least


def _scores(dots: NDArray[np.int64], products: NDArray[np.float64]) -> NDArray[np.float64]:
    scores: NDArray[np.float64] = np.where(products > 0, dots / np.sqrt(np.where(products > 0, products, 1)), 0.0)
    return scores


def _integers(latents: Latents, weights: Floats, hidden_dim: int, k: int | None = None) -> sparse.csr_array:
    """Return the first k stored weights as an int64 matrix [n, hidden_dim]."""
    quantised = code.quantise(latents, weights, hidden_dim=hidden_dim, active_max=latents.shape[1])
    kept, places = quantised.weights[:, :k], quantised.latents[:, :k]
    active = kept > 0
    offsets = np.concatenate([[0], np.cumsum(active.sum(axis=1))])
    flat = kept[active].astype(np.int64), places[active].astype(np.int64), offsets
    return sparse.csr_array(flat, shape=(len(latents), hidden_dim))
