"""How good codes and rankings are, measured exactly and plainly; nothing here is tuned for speed at scale.

Neighbour functions return row numbers by similarity descending. Weights are taken as the adapter gives
them, L2-normalised, so that similarity is cosine. A ranking holds −1 behind a query's last hit. Plural names
score query by query, so that two systems can be compared on the same queries; the mean is the usual number.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from csr_model.codes import Codes
from csr_model.embeddings import NORM_MIN

Floats = np.ndarray[Any, Any]
Integers = np.ndarray[Any, Any]

_QUERIES_PER_CHUNK = 256
_DOCUMENTS_PER_CHUNK = 16_384


def sparse_neighbours(documents: Codes[Floats], queries: Codes[Floats], hidden_dim: int, top_n: int) -> Integers:
    """Return [q, top_n] int64: each query code's best documents by dot product.

    Args:
        documents: [n, k_docs].
        queries: [q, k_query]; the two k may differ.
        hidden_dim: h.
        top_n: 1 … n.
    """
    blocks = []
    for start in range(0, len(documents.latents), _DOCUMENTS_PER_CHUNK):
        stop = start + _DOCUMENTS_PER_CHUNK
        by_latent = _dense(documents.latents[start:stop], documents.weights[start:stop], hidden_dim).T.contiguous()
        blocks.append(
            torch.cat(
                [
                    F.embedding_bag(latents, by_latent, per_sample_weights=weights, mode="sum")
                    for latents, weights in _tensor_chunks(queries)
                ]
            )
        )
    return torch.cat(blocks, dim=1).topk(top_n, dim=1).indices.numpy()


def dense_neighbours(documents: Floats, queries: Floats, top_n: int) -> Integers:
    """Return [q, top_n] int64: each query's best documents by cosine of the vectors given; top_n is 1 … n."""
    unit = F.normalize(torch.from_numpy(documents.astype(np.float32)), dim=1, eps=NORM_MIN)
    parts = torch.split(torch.from_numpy(queries.astype(np.float32)), _QUERIES_PER_CHUNK)
    return torch.cat([(part @ unit.T).topk(top_n, dim=1).indices for part in parts]).numpy()


def recalls(found: Integers, expected: Integers) -> Floats:
    """Return [q] float64: the share of each row's `expected` numbers that are in its `found` row, 0 … 1."""
    width = 1 + max(found.max(initial=0), expected.max(initial=0))
    hits = np.isin(_keys(expected, width), _keys(found, width)[found >= 0])
    return np.asarray(hits.mean(axis=1))


def recall(found: Integers, expected: Integers) -> float:
    """Return the mean of `recalls`."""
    return float(recalls(found, expected).mean())


def one_nn_hits(neighbours: Integers, document_labels: Integers, query_labels: Integers) -> Floats:
    """Return [q] float64: 1 where the first neighbour has the query's label, 0 where not or where there is none."""
    first = neighbours[:, 0]
    same = np.asarray(document_labels)[first] == np.asarray(query_labels)
    return np.asarray((first >= 0) & same, np.float64)


def one_nn_accuracy(neighbours: Integers, document_labels: Integers, query_labels: Integers) -> float:
    """Return the mean of `one_nn_hits`."""
    return float(one_nn_hits(neighbours, document_labels, query_labels).mean())


def ndcgs(found: Integers, relevant: Integers, top_n: int) -> Floats:
    """Return [q] float64: nDCG of the first top_n hits, relevance 0 or 1, 0 … 1; NaN for queries without relevance.

    The ideal ranking holds all relevant documents of the query, found or not, as far as top_n places go. An ideal
    built from the retrieved ones alone, as some evaluations do, would call one late hit perfect.

    Args:
        found: [q, n], each document at most once in a row.
        relevant: [r, 2], (query row, document row).
        top_n: At least 1.
    """
    hits, counts = _relevant_hits(found[:, :top_n], relevant)
    gains = 1 / np.log2(2 + np.arange(top_n))
    ideals = np.concatenate([[np.nan], np.cumsum(gains)])[np.minimum(counts, top_n)]
    return np.asarray((hits * gains[: hits.shape[1]]).sum(axis=1) / ideals)


def relevant_recalls(found: Integers, relevant: Integers, top_n: int) -> Floats:
    """Return [q] float64: R@n, the share of each query's relevant documents among its first top_n hits.

    Arguments and NaN as `ndcgs`. Where a query has one relevant document, as a caption its image, this is the
    cross-modal literature's R@n; with several it is stricter than "at least one found".
    """
    hits, counts = _relevant_hits(found[:, :top_n], relevant)
    return np.asarray(hits.sum(axis=1) / np.where(counts > 0, counts, np.nan))


def usage_histogram(codes: Codes[Floats], hidden_dim: int) -> Integers:
    """Return [h] int64: in how many codes each latent is active."""
    return np.bincount(codes.latents[codes.weights > 0].astype(np.int64), minlength=hidden_dim)


def unused_share(usage: Integers) -> float:
    """Return the share of latents that no code uses, 0 … 1; on held-out rows, the dead share."""
    return float((usage == 0).mean())


def usage_entropy(usage: Integers) -> float:
    """Return the entropy of the usage distribution over its maximum ln h: 1 is even use, 0 one latent."""
    p = usage[usage > 0] / max(1, usage.sum())
    return float(-(p * np.log(p)).sum() / np.log(len(usage))) if len(usage) > 1 else 0.0


def posting_skew(usage: Integers, rows: int) -> float:
    """Return Σ_j p_j², p_j the share of codes using latent j: postings met per query and document.

    Even use gives k²/h; real cost grows with this number.
    """
    return float(((usage / rows) ** 2).sum())


def _relevant_hits(found: Integers, relevant: Integers) -> tuple[Integers, Integers]:
    """Return where `found` holds a relevant document, bool [q, n], and how many each query has, [q]."""
    width = 1 + max(found.max(initial=0), relevant.max(initial=0))
    pairs = np.unique(relevant[:, 0].astype(np.int64) * width + relevant[:, 1])
    hits = np.isin(_keys(found, width), pairs) & (found >= 0)
    return hits, np.bincount(pairs // width, minlength=len(found))


def _keys(rows: Integers, width: int) -> Integers:
    """Return numbers that are equal only where row and value are: one sort then serves all rows."""
    return np.arange(len(rows), dtype=np.int64)[:, None] * width + rows


def _dense(latents: Integers, weights: Floats, hidden_dim: int) -> torch.Tensor:
    dense = torch.zeros(len(latents), hidden_dim)
    return dense.scatter_add_(1, torch.from_numpy(latents.astype(np.int64)), torch.from_numpy(np.array(weights)))


def _tensor_chunks(codes: Codes[Floats]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    latents, weights = torch.from_numpy(codes.latents.astype(np.int64)), torch.from_numpy(np.array(codes.weights))
    return zip(torch.split(latents, _QUERIES_PER_CHUNK), torch.split(weights, _QUERIES_PER_CHUNK), strict=True)
