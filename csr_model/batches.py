"""Which rows each step sees: a pure function of seed, epoch and step, so there is no state to store."""

from collections.abc import Iterator
from typing import Any

import numpy as np

Rows = np.ndarray[Any, np.dtype[np.int64]]


def steps_per_epoch(rows: int, batch_size: int) -> int:
    """Return the full batches in a pass; the rest of the rows waits for another epoch's order."""
    return rows // batch_size


def epoch_batches(
    rows: int, batch_size: int, seed: int, epoch: int, first_step: int = 0, rank: int = 0, ranks: int = 1
) -> Iterator[Rows]:
    """Yield this rank's row numbers for each remaining step of an epoch.

    All ranks' parts of a step together are the batch that a single rank would see. Numbers ascend
    within a part, which keeps reads of a memory-mapped file forward.

    Args:
        rows: Rows of the training set.
        batch_size: Rows per step over all ranks; a multiple of `ranks`.
        seed: Of the run.
        epoch: From 0.
        first_step: Steps of this epoch that are already done.
        rank: This rank.
        ranks: Number of ranks.
    """
    order = np.random.default_rng((seed, epoch)).permutation(rows)
    part = batch_size // ranks
    for step in range(first_step, steps_per_epoch(rows, batch_size)):
        start = step * batch_size + rank * part
        yield np.sort(order[start : start + part])
