"""What the index holds, counted for metrics and planning."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.index.core import kernels
from services.index.core.writer import State


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counts over one State."""

    documents: int
    dead_rows: int
    """Deleted or replaced rows that are still stored."""
    segments: int
    memtable_rows: int
    bytes: int
    """Bytes of all arrays, room in the memtable included."""
    latent_usage: NDArray[np.int64]
    """Documents whose code has the latent, [hidden_dim]."""
    unused_share: float
    """Share of latents that no document has; 1 in an empty index."""
    usage_entropy: float
    """Entropy of latent_usage / its sum, in bits: log2(hidden_dim) when all latents are used alike, else less."""
    posting_skew: float
    """Σp², p the share of documents that have a latent: postings per document that a query drawn from the documents
    touches, hence the cost of a search. k² / hidden_dim when all latents are used alike, else more."""


def count(state: State, hidden_dim: int, memtable_nbytes: int) -> Statistics:
    """Count a state. Cost: one pass over all codes, without the GIL."""
    usage = np.zeros(hidden_dim, np.int64)
    sources = [(part.segment.rows, part.alive) for part in state.parts] + [(state.recent, state.recent_alive)]
    for rows, alive in sources:
        kernels.count_usage(rows.latents, rows.weights, alive, usage)
    documents = state.documents
    shares = usage / max(documents, 1)
    used = usage[usage > 0] / max(int(usage.sum()), 1)
    return Statistics(
        documents=documents,
        dead_rows=sum(len(rows) for rows, _ in sources) - documents,
        segments=len(state.parts),
        memtable_rows=len(state.recent),
        bytes=memtable_nbytes + sum(part.segment.nbytes + part.alive.nbytes for part in state.parts),
        latent_usage=usage,
        unused_share=float(np.mean(usage == 0)),
        usage_entropy=float(-np.sum(used * np.log2(used))) + 0.0,
        posting_skew=float(np.sum(shares**2)),
    )
