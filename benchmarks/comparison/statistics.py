"""Whether one method is above another, or whether the queries cannot tell."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_RESAMPLES = 2_000
_RESAMPLES_PER_CHUNK = 100


class Difference(NamedTuple):
    """A difference of two means over the same queries, with its 95 % interval."""

    mean: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """above or below where the interval excludes 0, else tie."""
        return "above" if self.low > 0 else "below" if self.high < 0 else "tie"


def paired_difference(first: NDArray[Any], second: NDArray[Any], seed: int = 0) -> Difference:
    """Return the mean of first − second with the 95 % percentile interval of a bootstrap over queries.

    Args:
        first: [q], a score for each query.
        second: [q], of the same queries in the same order.
        seed: Of the resampling.

    Raises:
        ValueError: Lengths differ or there are no queries.
    """
    if first.shape != second.shape or first.ndim != 1 or not len(first):
        raise ValueError(f"scores have shapes {first.shape} and {second.shape}; both must be [q] with q ≥ 1")
    differences = np.asarray(first, np.float64) - second
    random = np.random.default_rng(seed)
    means = [
        differences[random.integers(len(differences), size=(_RESAMPLES_PER_CHUNK, len(differences)))].mean(axis=1)
        for _ in range(_RESAMPLES // _RESAMPLES_PER_CHUNK)
    ]
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return Difference(float(differences.mean()), float(low), float(high))
