"""What is searched: stored codes of documents and queries, and the embeddings behind them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from services.index.core import code
from services.index.core.code import Codes

Floats = NDArray[np.float32]
Latents = NDArray[np.uint16]
RowNumbers = NDArray[np.int64]

K_STORED = 128
"""Latents kept of every code; what is searched at a smaller k is its prefix."""
TOP_N = 10
BLOCK_ROWS = 65_536
"""Rows worked on at once where temporary arrays are several times as large as the codes."""


class Dense(NamedTuple):
    """Embeddings of unit length: documents [n, d] and queries [q, d]."""

    documents: Floats
    queries: Floats


class Flat(NamedTuple):
    """Codes in flat arrays, without padding; the latents of a row ascend. Row i is offsets[i] … offsets[i + 1]."""

    offsets: NDArray[np.int64]
    latents: NDArray[np.int32]
    weights: Floats


@dataclass(frozen=True, eq=False)
class Cut:
    """Codes at one k, as every engine is given them.

    Attributes:
        k: Most latents of a code.
        hidden_dim: h.
        latents: [n, k] of the documents, by weight descending.
        weights: [n, k] of unit length, from stored weights, so that rounding them again changes next to nothing.
        query_latents: [q, k].
        query_weights: [q, k].
        dense: What the codes were made from; None where codes were drawn directly.
    """

    k: int
    hidden_dim: int
    latents: Latents
    weights: Floats
    query_latents: Latents
    query_weights: Floats
    dense: Dense | None

    def __len__(self) -> int:
        return len(self.latents)

    @property
    def posting_skew(self) -> float:
        """Σp², p the share of documents that have a latent: postings touched per document and query."""
        usage = np.zeros(self.hidden_dim, np.int64)
        for block in blocks(len(self)):
            usage += np.bincount(self.latents[block][self.weights[block] > 0], minlength=self.hidden_dim)
        return float(np.sum((usage / len(self)) ** 2))


@dataclass(frozen=True, eq=False)
class SearchSet:
    """Documents and queries as stored codes with up to K_STORED latents.

    Attributes:
        name: For people.
        about: Exactly what it is made of.
        hidden_dim: h.
        documents: u16 latents and weights.
        queries: The same.
        dense: The embeddings, or None.
    """

    name: str
    about: str
    hidden_dim: int
    documents: Codes
    queries: Codes
    dense: Dense | None

    def cut(self, k: int, count: int | None = None) -> Cut:
        """Return the first `count` documents, or all, and every query at k."""
        documents = prefix_of(self.documents.latents[:count], self.documents.weights[:count], k)
        dense = None if self.dense is None else Dense(self.dense.documents[:count], self.dense.queries)
        return Cut(k, self.hidden_dim, *documents, *prefix_of(*self.queries, k), dense)


def blocks(count: int, rows: int = BLOCK_ROWS) -> Iterator[slice]:
    """Yield consecutive slices that cover `count` rows."""
    for start in range(0, count, rows):
        yield slice(start, min(start + rows, count))


def flat(latents: Latents, weights: Floats) -> Flat:
    """Return codes in flat arrays, as inverted indexes of others read them."""
    counts = np.count_nonzero(weights, axis=1)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    found = Flat(offsets, np.empty(offsets[-1], np.int32), np.empty(offsets[-1], np.float32))
    for block in blocks(len(latents)):
        keys = np.where(weights[block] > 0, latents[block].astype(np.int32), 1 << 16)
        order = np.argsort(keys, axis=1)
        active = np.take_along_axis(keys, order, axis=1) < 1 << 16
        place = slice(offsets[block.start], offsets[block.stop])
        found.latents[place] = np.take_along_axis(keys, order, axis=1)[active]
        found.weights[place] = np.take_along_axis(weights[block], order, axis=1)[active]
    return found


def stored(latents: NDArray[Any], weights: NDArray[np.floating[Any]], hidden_dim: int) -> Codes:
    """Return codes of a model as stored codes."""
    found = Codes(np.empty(latents.shape, np.uint16), np.empty(latents.shape, np.uint16))
    for block in blocks(len(latents)):
        quantised = code.quantise(latents[block], weights[block], hidden_dim=hidden_dim, active_max=latents.shape[1])
        found.latents[block], found.weights[block] = quantised
    return found


def prefix_of(latents: Latents, weights: NDArray[Any], k: int) -> tuple[Latents, Floats]:
    """Return the first k latents, and as float32 of unit length what their stored weights are."""
    shape = (len(weights), min(k, weights.shape[1]))
    first, real = np.empty(shape, np.uint16), np.empty(shape, np.float32)
    for block in blocks(len(weights)):
        given = latents[block, :k], weights[block, :k].astype(np.float32)
        kept = code.quantise(*given, hidden_dim=1 << 16, active_max=k)
        wide = kept.weights.astype(np.float64)
        norms = np.sqrt(np.einsum("ij,ij->i", wide, wide))[:, None]
        first[block], real[block] = kept.latents, wide / np.where(norms > 0, norms, 1)
    return first, real
