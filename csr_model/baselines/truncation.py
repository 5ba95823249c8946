"""Truncation: the first dimensions of an embedding, as Matryoshka models are used; for others a sanity line."""

from typing import Any

import numpy as np

from csr_model.errors import InvalidTrainingData

Floats = np.ndarray[Any, Any]


def truncate(embeddings: Floats, dims: int) -> Floats:
    """Return the first `dims` values of each row, [n, dims]; rows keep their scale, so compare them by cosine.

    Raises:
        InvalidTrainingData: `dims` is not within 1 … d.
    """
    if not 1 <= dims <= embeddings.shape[1]:
        raise InvalidTrainingData(f"dims is {dims}; embeddings of {embeddings.shape[1]} values have 1 … as many")
    return embeddings[:, :dims]
