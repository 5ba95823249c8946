"""Labels and pairs at the door: which can be learned from, so that a contrast is never zero without saying so."""

import hashlib
from typing import Any

import numpy as np

from csr_model.batches import Pairs
from csr_model.errors import InvalidTrainingData


def usable_labels(labels: "np.ndarray[Any, Any] | None", rows: int) -> "np.ndarray[Any, np.dtype[np.int64]]":
    """Return labels as int64 class numbers [rows].

    Raises:
        InvalidTrainingData: Missing, of another length, NaN, of types that do not compare, all equal, or all
            different: the contrastive loss would be zero without saying so.
    """
    if labels is None:
        raise InvalidTrainingData("the configuration learns labels but they are missing; pass labels")
    labels = np.asarray(labels)
    if labels.shape != (rows,):
        raise InvalidTrainingData(f"labels have shape {labels.shape}; they must be [{rows}], one a row")
    nowhere = np.flatnonzero(labels != labels)  # NaN and NaT, in any dtype
    if len(nowhere):
        raise InvalidTrainingData(
            f"labels[{nowhere[0]}] is {labels[nowhere[0]]}; give each row a class or leave it out"
        )
    try:
        classes, numbers = np.unique(labels, return_inverse=True)
    except TypeError as error:
        raise InvalidTrainingData(f"labels do not compare with each other: {error}; use one type") from error
    if len(classes) == 1:
        raise InvalidTrainingData(f"all {rows} labels are equal; a contrast needs at least two classes")
    if len(classes) == rows:
        raise InvalidTrainingData(f"all {rows} labels are different; no two rows form a positive pair")
    return numbers.astype(np.int64)


def usable_pairs(pairs: Pairs | None, rows: int, batch_size: int) -> Pairs:
    """Return pairs as int64 row numbers.

    Raises:
        InvalidTrainingData: Missing, of different or too small length, a row number out of range, or nothing
            to tell apart: one query or document in all pairs, or every row paired with itself.
    """
    if pairs is None:
        raise InvalidTrainingData("the configuration learns pairs but they are missing; pass pairs")
    queries, documents = (np.asarray(side) for side in pairs)
    if queries.ndim != 1 or queries.shape != documents.shape:
        raise InvalidTrainingData(
            f"pairs have {queries.shape} queries and {documents.shape} documents; both must be [m], one a pair"
        )
    for name, side in (("queries", queries), ("documents", documents)):
        if side.dtype.kind not in "iu":
            raise InvalidTrainingData(f"pairs.{name} have dtype {side.dtype}; they must be whole row numbers")
        bad = np.flatnonzero((side < 0) | (side >= rows))
        if len(bad):
            raise InvalidTrainingData(
                f"pairs.{name}[{bad[0]}] is {side[bad[0]]}; row numbers must be within 0 … {rows - 1}"
            )
    if len(queries) < 2:
        raise InvalidTrainingData(f"there are {len(queries)} pairs; a contrast needs at least two")
    if len(queries) < batch_size // 4:
        raise InvalidTrainingData(
            f"{len(queries)} pairs do not fill the quarter of a batch of {batch_size}; lower batch_size or add pairs"
        )
    for name, side in (("query", queries), ("document", documents)):
        if (side == side[0]).all():
            raise InvalidTrainingData(f"all {len(side)} pairs have one {name}, row {side[0]}; a contrast needs others")
    if (queries == documents).all():
        raise InvalidTrainingData(f"all {len(queries)} pairs join rows with themselves; name what belongs together")
    return Pairs(queries.astype(np.int64), documents.astype(np.int64))


def supervision_digest(data_digest: str, labels: "np.ndarray[Any, Any] | None", pairs: Pairs | None) -> str:
    """Return the rows' digest, or where labels or pairs are learned a SHA-256 (hex) over it and them."""
    if labels is None and pairs is None:
        return data_digest
    digest = hashlib.sha256(f"{data_digest}{labels is not None}".encode())
    for column in (labels, *(pairs or ())):
        if column is not None:
            digest.update(np.ascontiguousarray(column).data)
    return digest.hexdigest()
