"""What the index holds, counted for metrics and planning."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.index.core.bits import Words
from services.index.core.compiled import compiled
from services.index.core.planner import KERNELS, Kernel
from services.index.core.scoring import is_allowed
from services.index.core.shapes import I64, U16
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
    """Bytes of all arrays, room in the memtable included, and, estimated, of the terms of keyword fields."""
    latent_usage: NDArray[np.int64]
    """Documents whose code has the latent, [hidden_dim]."""
    unused_share: float
    """Share of latents that no document has; 1 in an empty index."""
    usage_entropy: float
    """Entropy of latent_usage / its sum, in bits: log2(hidden_dim) when all latents are used alike, else less."""
    posting_skew: float
    """Σp², p the share of documents that have a latent: postings per document that a query drawn from the documents
    touches, hence the cost of a search. k² / hidden_dim when all latents are used alike, else more."""
    kernels: Mapping[Kernel, int]
    """How often each kernel was chosen, over queries and the segments of this State."""
    blocks_visited: int
    """Blocks of 64 rows that the block-max kernel scored."""


def count(state: State, hidden_dim: int) -> Statistics:
    """Count a state. Cost: one pass over all codes, without the GIL."""
    usage = np.zeros(hidden_dim, np.int64)
    for rows, alive in state.sources:
        _count_usage(rows.latents, rows.weights, alive, usage)
    memories = [part.segment.memory for part in state.parts]
    documents = state.documents
    shares = usage / max(documents, 1)
    used = usage[usage > 0] / max(int(usage.sum()), 1)
    return Statistics(
        documents=documents,
        dead_rows=sum(len(rows) for rows, _ in state.sources) - documents,
        segments=len(state.parts),
        memtable_rows=len(state.recent),
        bytes=state.memtable.nbytes + state.recent_alive.nbytes + sum(part.nbytes for part in state.parts),
        latent_usage=usage,
        unused_share=float(np.mean(usage == 0)),
        usage_entropy=float(-np.sum(used * np.log2(used))) + 0.0,
        posting_skew=float(np.sum(shares**2)),
        kernels={name: sum(int(memory.chosen[number]) for memory in memories) for number, name in enumerate(KERNELS)},
        blocks_visited=sum(int(memory.visited[0]) for memory in memories),
    )


@compiled
def _count_usage(latents: U16, weights: U16, alive: Words, usage: I64) -> None:
    """Add to usage[latent] the number of alive rows whose code has it."""
    for row in range(len(latents)):
        if not is_allowed(alive, row):
            continue
        for rank in range(latents.shape[1]):
            if weights[row, rank] == 0:
                break
            usage[latents[row, rank]] += 1
