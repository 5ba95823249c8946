"""Search as docs/architecture.md defines it: slow, short, and sharing no code with the index."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Code = list[tuple[int, int]]
"""(latent, stored weight) by weight descending, then latent ascending."""


def stored_code(latents: Sequence[int], weights: Sequence[float]) -> Code:
    """Normalise and quantise one row of latents and float32 weights."""
    norm = math.sqrt(sum(float(weight) ** 2 for weight in weights))
    pairs = [
        (int(latent), round(65535 * (float(weight) / norm)))
        for latent, weight in zip(latents, weights, strict=True)
        if weight > 0
    ]
    return sorted((pair for pair in pairs if pair[1] > 0), key=lambda pair: (-pair[1], pair[0]))


@dataclass(frozen=True)
class Document:
    """What the oracle knows of a document."""

    code: Code
    fields: Mapping[str, Any] = field(default_factory=dict)
    partition: int = 0
    version: int = 0


def search(
    documents: Mapping[str, Document],
    query: Code,
    top_n: int,
    k_query: int = 256,
    k_docs: int = 256,
    min_score: float = 0.0,
    matches: Callable[[Document], bool] = lambda _: True,
) -> list[tuple[str, float]]:
    """Score every matching document and sort; plain Python."""
    wanted = dict(query[:k_query])
    query_square = sum(weight * weight for weight in wanted.values())
    hits = []
    for name, document in documents.items():
        prefix = document.code[:k_docs]
        dot = sum(weight * wanted.get(latent, 0) for latent, weight in prefix)
        if dot and matches(document):
            square = sum(weight * weight for _, weight in prefix)
            score = dot / math.sqrt(float(query_square) * float(square))
            if score >= min_score:
                hits.append((name, score))
    hits.sort(key=lambda hit: (-hit[1], hit[0].encode()))
    return hits[:top_n]


@dataclass(frozen=True)
class Table:
    """The same documents as arrays, for as many as plain Python is too slow for; codes as in `Code`, 0 behind them."""

    names: Sequence[str]
    latents: NDArray[np.int64]
    weights: NDArray[np.int64]

    def search(
        self,
        query: Code,
        top_n: int,
        k_query: int = 256,
        k_docs: int = 256,
        min_score: float = 0.0,
        allowed: NDArray[np.bool_] | None = None,
    ) -> list[tuple[str, float]]:
        """Return what `search` returns, for the documents whose row is allowed."""
        wanted = np.zeros(1 << 16, np.int64)
        for latent, weight in query[:k_query]:
            wanted[latent] = weight
        weights = self.weights[:, :k_docs]
        dots = np.sum(wanted[self.latents[:, :k_docs]] * weights, axis=1)
        rows = np.flatnonzero(dots if allowed is None else dots * allowed)
        squares = np.sum(weights[rows] ** 2, axis=1)
        scores = dots[rows] / np.sqrt(float(np.sum(wanted**2)) * squares.astype(np.float64))
        rows, scores = rows[scores >= min_score], scores[scores >= min_score]
        if len(rows) > top_n:
            last = np.partition(scores, len(scores) - top_n)[len(scores) - top_n]
            rows, scores = rows[scores >= last], scores[scores >= last]
        hits = [(self.names[row], score) for row, score in zip(rows.tolist(), scores.tolist(), strict=True)]
        hits.sort(key=lambda hit: (-hit[1], hit[0].encode()))
        return hits[:top_n]
