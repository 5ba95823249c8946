"""An embedded data set: what an adapter may learn from, and what judges it."""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestration.data.split import EmbeddedSplit


@dataclass(frozen=True, eq=False)
class EmbeddedSet:
    """Rows to learn from, documents to search and test queries; no test query is among the rows to learn from."""

    name: str
    train: EmbeddedSplit
    """Every row that an adapter may learn from, with labels where the set has them."""
    pairs: NDArray[np.int64] | None
    """[m, 2], rows of `train` that belong together: (query, document); None where the set has no pairs."""
    documents: EmbeddedSplit
    """What is searched; the train split itself where labels decide what is relevant."""
    queries: EmbeddedSplit
    """Test queries."""
    relevant: NDArray[np.int64] | None
    """[r, 2], (row of queries, row of documents), without repeats; None: same label, relevant."""

    @property
    def digest(self) -> str:
        """SHA-256 over everything that is learned from, searched and asked."""
        digest = hashlib.sha256()
        for split in (self.train, self.documents, self.queries):
            digest.update(split.digest.encode())
        for rows in (self.pairs, self.relevant):
            digest.update(b"-" if rows is None else rows.astype("<i8").tobytes())
        return digest.hexdigest()
