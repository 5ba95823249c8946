"""How good codes are, measured exactly and plainly; nothing here is tuned for speed at scale.

Neighbour functions return row numbers by similarity descending. Weights are taken as the adapter gives
them, L2-normalised, so that similarity is cosine.
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
    """Return [q, top_n] int64: each query's best documents by cosine of the original embeddings."""
    unit = F.normalize(torch.from_numpy(documents.astype(np.float32)), dim=1, eps=NORM_MIN)
    parts = torch.split(torch.from_numpy(queries.astype(np.float32)), _QUERIES_PER_CHUNK)
    return torch.cat([(part @ unit.T).topk(top_n, dim=1).indices for part in parts]).numpy()


def recall(found: Integers, expected: Integers) -> float:
    """Return the mean share of each row's `expected` numbers that are in its `found` row, 0 … 1."""
    hits = (expected[:, :, None] == found[:, None, :]).any(axis=2)
    return float(hits.mean())


def one_nn_accuracy(neighbours: Integers, document_labels: Integers, query_labels: Integers) -> float:
    """Return the share of queries whose first neighbour has the query's label, 0 … 1."""
    return float((np.asarray(document_labels)[neighbours[:, 0]] == np.asarray(query_labels)).mean())


def nmse(embeddings: Floats, reconstructions: Floats) -> float:
    """Return Σ‖x − x̂‖² / Σ‖x − x̄‖²: the share of variance that is missed; 0 is perfect."""
    x, restored = embeddings.astype(np.float64), reconstructions.astype(np.float64)
    return float(((x - restored) ** 2).sum() / ((x - x.mean(axis=0)) ** 2).sum())


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


def _dense(latents: Integers, weights: Floats, hidden_dim: int) -> torch.Tensor:
    dense = torch.zeros(len(latents), hidden_dim)
    return dense.scatter_add_(1, torch.from_numpy(latents.astype(np.int64)), torch.from_numpy(np.array(weights)))


def _tensor_chunks(codes: Codes[Floats]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    latents, weights = torch.from_numpy(codes.latents.astype(np.int64)), torch.from_numpy(np.array(codes.weights))
    return zip(torch.split(latents, _QUERIES_PER_CHUNK), torch.split(weights, _QUERIES_PER_CHUNK), strict=True)
