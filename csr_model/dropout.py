"""Which values of a row a training step does not see.

A function of row, step and seed, so that ranks agree and a resumed run sees what it would have seen.
"""

from typing import Any

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def dropout_factors(
    rows: "np.ndarray[Any, np.dtype[np.int64]]", input_dim: int, share: float, seed: int, step: int
) -> "np.ndarray[Any, np.dtype[np.float32]]":
    """Return [n, d]: 0 for a `share` of the values and 1/(1 − share) for the others, so that the mean stays.

    Every value has its own number, mixed as in SplitMix64 (Steele et al. 2014).

    Args:
        rows: Row numbers [n].
        input_dim: d.
        share: 0 … 1, below 1.
        seed: Of the run.
        step: Of the run.
    """
    start = np.uint64(int(np.random.default_rng((seed, 4, step)).integers(2**63)))
    places = rows.astype(np.uint64)[:, None] * np.uint64(input_dim) + np.arange(input_dim, dtype=np.uint64)
    numbers = np.add(start, places * _GOLDEN, dtype=np.uint64)
    numbers = (numbers ^ (numbers >> np.uint64(30))) * _MIX_1
    numbers = (numbers ^ (numbers >> np.uint64(27))) * _MIX_2
    uniform = (numbers ^ (numbers >> np.uint64(31))) >> np.uint64(40)
    return np.where(uniform >= share * 2**24, np.float32(1 / (1 - share)), np.float32(0))
