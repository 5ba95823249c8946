"""PCA: the linear map to few dimensions that keeps most variance; the line that any code has to beat."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from csr_model.embeddings import checked_rows
from csr_model.errors import InvalidTrainingData

Floats = np.ndarray[Any, Any]

_ROWS_PER_CHUNK = 8_192


@dataclass(frozen=True, eq=False)
class PCA:
    """The main directions of training rows, after scaling each row to length 1.

    Attributes:
        mean: [d] float32, of the scaled rows.
        components: [m, d] float32, orthonormal, by variance descending; the largest entry of each is positive.
    """

    mean: Floats
    components: Floats

    @classmethod
    def fit(cls, embeddings: Floats, dims: int) -> Self:
        """Find the first `dims` directions, exactly: the eigenvectors of the covariance in float64.

        Args:
            embeddings: [n, d] training rows.
            dims: 1 … d.

        Raises:
            InvalidVector: A row is not finite or has no direction.
            InvalidTrainingData: `dims` is out of range, or there are no rows.
        """
        input_dim = embeddings.shape[1]
        if not 1 <= dims <= input_dim:
            raise InvalidTrainingData(f"dims is {dims}; embeddings of {input_dim} values have 1 … {input_dim}")
        if not len(embeddings):
            raise InvalidTrainingData("embeddings hold no rows; PCA needs at least one")
        total, products = np.zeros(input_dim), np.zeros((input_dim, input_dim))
        for start in range(0, len(embeddings), _ROWS_PER_CHUNK):
            chunk = _unit(embeddings[start : start + _ROWS_PER_CHUNK], start).astype(np.float64)
            total += chunk.sum(axis=0)
            products += chunk.T @ chunk
        mean = total / len(embeddings)
        _, directions = np.linalg.eigh(products / len(embeddings) - np.outer(mean, mean))
        components = directions[:, ::-1][:, :dims].T
        # The sign of an eigenvector is arbitrary; a fixed one makes runs comparable.
        largest = np.take_along_axis(components, np.abs(components).argmax(axis=1)[:, None], axis=1)
        return cls(mean.astype(np.float32), (components * np.sign(largest)).astype(np.float32))

    def transform(self, embeddings: Floats) -> Floats:
        """Return [n, m] float32: the scaled rows in these directions; its first j columns are the PCA to j.

        Raises:
            InvalidVector: As `fit`.
        """
        return np.asarray((_unit(embeddings) - self.mean) @ self.components.T)


def _unit(embeddings: Floats, first_row: int = 0) -> Floats:
    rows = checked_rows(embeddings, embeddings.shape[1], first_row).numpy()
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))
