"""Re-scoring of hits with stored embeddings. Pure."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from services.router.merge import Scored


def rerank(
    query: NDArray[np.float32],
    candidates: Sequence[str],
    embeddings: Mapping[str, NDArray[np.float16]],
    top_n: int,
    min_score: float | None = None,
) -> list[Scored]:
    """Return the best top_n candidates by exact cosine with the query.

    Args:
        query: Embedding [input_dim], not all zeros.
        candidates: Ids to score, unique.
        embeddings: Stored embeddings [input_dim] by id; candidates without one were deleted meanwhile and drop out.
        top_n: Most hits to return.
        min_score: Only hits with at least this cosine.

    Returns:
        By cosine (float64, the same bits whatever the other candidates are) descending, then id ascending.
    """
    ids = [id for id in candidates if id in embeddings]
    if not ids:
        return []
    rows = np.stack([embeddings[id] for id in ids]).astype(np.float64)
    wide = query.astype(np.float64)
    # Sums along rows rather than a matrix product: BLAS may add in another order when there are more rows.
    dots = (rows * wide).sum(axis=1)
    norms = np.sqrt((rows * rows).sum(axis=1) * (wide * wide).sum())  # one root: equal rows score exactly 1
    cosines = (dots / norms).tolist()
    ranked = sorted((-score, id) for id, score in zip(ids, cosines, strict=True))
    return [Scored(id, -negated) for negated, id in ranked[:top_n] if min_score is None or -negated >= min_score]
