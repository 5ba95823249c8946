"""Which rows each step sees: a pure function of seed and step, so there is no state to store.

A step's rows come in two parts: the two sides of pairs, where pairs are learned, and other rows. Each
part walks through its own endless sequence of permutations.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

Rows = np.ndarray[Any, np.dtype[np.int64]]

_NEIGHBOURS_PER_ANCHOR = 3


class Pairs(NamedTuple):
    """Positive pairs: `queries[i]` and `documents[i]`, int64 [m], are rows of the same embeddings."""

    queries: Rows
    documents: Rows


class Neighbours(NamedTuple):
    """Dense neighbours of sampled rows: int64 `anchors` [a] and `neighbours` [a, n], rows of the embeddings."""

    anchors: Rows
    neighbours: Rows


class StepRows(NamedTuple):
    """Rows of one step on one rank, int64: `pairs` queries, then as many documents, then others."""

    rows: Rows
    pairs: int


def steps_per_epoch(rows: int, batch_size: int) -> int:
    """Return the full batches in a pass; the rest of the rows waits for another epoch's order."""
    return rows // batch_size


@dataclass(frozen=True)
class Sampler:
    """Chooses the rows of a step for one rank; all ranks' parts together are what a single rank would see.

    Args:
        rows: Rows of the training set.
        row_count: Rows per step that are chosen singly, over all ranks; a multiple of `ranks`.
        seed: Of the run.
        pairs: What `pair_count` chooses from.
        pair_count: Pairs per step over all ranks; a multiple of `ranks`, at most as many as there are.
        neighbours: Where given, the single rows are anchors with three of their neighbours each, not any rows.
        rank: This rank.
        ranks: Number of ranks.
    """

    rows: int
    row_count: int
    seed: int
    pairs: Pairs | None = None
    pair_count: int = 0
    neighbours: Neighbours | None = None
    rank: int = 0
    ranks: int = 1

    def step(self, step: int) -> StepRows:
        """Return the rows of a step, counted from 0 over the whole run.

        Numbers ascend within a part, which keeps reads of a memory-mapped file forward.
        """
        single = self._single_rows(step)
        if self.pairs is None:
            return StepRows(single, 0)
        chosen = np.sort(self._part(len(self.pairs.queries), self.pair_count, step, 1))
        return StepRows(np.concatenate([self.pairs.queries[chosen], self.pairs.documents[chosen], single]), len(chosen))

    def _single_rows(self, step: int) -> Rows:
        if self.neighbours is None:
            return np.sort(self._part(self.rows, self.row_count, step, 0))
        anchors = self.row_count // (1 + _NEIGHBOURS_PER_ANCHOR)
        chosen = self._part(len(self.neighbours.anchors), anchors, step, 0)
        random = np.random.default_rng((self.seed, 2, step))
        width = self.neighbours.neighbours.shape[1]
        picked = random.integers(width, size=(anchors, _NEIGHBOURS_PER_ANCHOR))
        picked = picked[self.rank * len(chosen) : (self.rank + 1) * len(chosen)]
        near = self.neighbours.neighbours[chosen[:, None], picked]
        return np.sort(np.concatenate([self.neighbours.anchors[chosen], near.reshape(-1)]))

    def _part(self, available: int, count: int, step: int, kind: int) -> Rows:
        """Return this rank's share of `count` of `available` numbers."""
        steps = max(1, available // max(1, count))
        order = _permutation(available, self.seed, kind, step // steps)
        share = count // self.ranks
        start = step % steps * count + self.rank * share
        return order[start : start + share]


@lru_cache(maxsize=4)
def _permutation(count: int, seed: int, kind: int, number: int) -> Rows:
    return np.random.default_rng((seed, kind, number)).permutation(count)
