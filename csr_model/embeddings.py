"""Embeddings at the door: which rows are acceptable, and what a training set says about itself."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from csr_model.errors import InvalidTrainingData, InvalidVector

NORM_MIN = 1e-12
"""Rows with a smaller L2 norm have no direction."""

_ROWS_PER_CHUNK = 8192


def checked_rows(rows: "np.ndarray[Any, Any] | Tensor", input_dim: int, first_row: int = 0) -> Tensor:
    """Return the rows as a float32 tensor [n, input_dim] after checking each one.

    Args:
        rows: [n, input_dim], any real dtype; values must survive float32.
        input_dim: The dimension the caller's adapter or configuration takes.
        first_row: Number of the first row in messages.

    Raises:
        InvalidVector: Wrong shape or dtype, NaN, Inf, or a norm below `NORM_MIN` or beyond float32;
            the message names the first bad row.
    """
    tensor = _as_float32(real_rows(rows, input_dim))
    norms = torch.linalg.vector_norm(tensor, dim=1)
    # One pass finds every fault: NaN and Inf make the norm NaN or Inf.
    good = (norms >= NORM_MIN) & norms.isfinite()
    if not bool(good.all()):
        bad = int((~good).nonzero()[0])
        raise InvalidVector(f"embeddings[{first_row + bad}] {_fault(tensor[bad])}")
    return tensor


def real_rows(rows: "np.ndarray[Any, Any] | Tensor", input_dim: int) -> "np.ndarray[Any, Any] | Tensor":
    """Return rows that are [n, input_dim] of real numbers, neither copied nor read; anything else is InvalidVector."""
    if isinstance(rows, Tensor):
        if not is_dense(rows):
            raise InvalidVector("embeddings are a sparse, nested, quantised or meta tensor; they must be dense")
        real = not rows.is_complex() and rows.dtype != torch.bool
    else:
        try:
            rows = np.asarray(rows)
        except (TypeError, ValueError) as error:
            raise InvalidVector(f"embeddings are no array [n, {input_dim}]: {error}") from error
        real = rows.dtype.kind in "fiu"
    if not real:
        raise InvalidVector(f"embeddings have dtype {rows.dtype}; they must be real numbers")
    if rows.ndim != 2:
        raise InvalidVector(f"embeddings have shape {tuple(rows.shape)}; they must be [n, {input_dim}]")
    if rows.shape[1] != input_dim:
        raise InvalidVector(f"embeddings have {rows.shape[1]} values a row; the adapter takes {input_dim}")
    return rows


def is_dense(tensor: Tensor) -> bool:
    """Whether a tensor holds all of its values in memory as they are."""
    unusual = tensor.is_quantized or tensor.is_meta or tensor.is_nested
    return tensor.layout == torch.strided and not unusual


def spread_rows(rows: int, count: int) -> "np.ndarray[Any, np.dtype[np.int64]]":
    """Return at most `count` of the row numbers 0 … rows − 1, ascending, spread evenly: a sample of ordered data."""
    return np.linspace(0, rows - 1, min(rows, count)).astype(np.int64)


def _as_float32(rows: "np.ndarray[Any, Any] | Tensor") -> Tensor:
    if isinstance(rows, Tensor):
        return rows.detach().to(torch.float32)
    with np.errstate(over="ignore"):  # values beyond float32 become Inf, which is refused by name
        return torch.from_numpy(np.require(rows, np.float32, ["C", "W"]))


def _fault(row: Tensor) -> str:
    if not bool(row.isfinite().all()):
        return "holds NaN or Inf; every value must be finite in float32"
    if bool(torch.linalg.vector_norm(row) < NORM_MIN):
        return f"has an L2 norm below {NORM_MIN}; a zero vector has no direction"
    return "has an L2 norm beyond float32; scale it down"


@dataclass(frozen=True)
class DataSummary:
    """What training needs to know about a whole set of embeddings.

    Attributes:
        rows: Number of rows.
        digest: SHA-256 (hex) over dtype, shape and values.
        mean: [d] float32, of the rows after normalisation if that is on.
        variance: Mean squared distance to `mean`; above 0.
    """

    rows: int
    digest: str
    mean: Tensor
    variance: float


def summarize(embeddings: "np.ndarray[Any, Any]", normalize: bool) -> DataSummary:
    """Read all rows once, in chunks, checking each one.

    Raises:
        InvalidVector: As `checked_rows`.
        InvalidTrainingData: Not [n, d] with n ≥ 2, or all rows are alike.
    """
    if embeddings.ndim != 2 or len(embeddings) < 2:
        raise InvalidTrainingData(f"embeddings have shape {embeddings.shape}; they must be [n, d] with n ≥ 2")
    rows, input_dim = embeddings.shape
    digest = hashlib.sha256(f"{embeddings.dtype.str}{embeddings.shape}".encode())
    total, squares = torch.zeros(input_dim, dtype=torch.float64), 0.0
    for start, chunk in _chunks(embeddings):
        digest.update(np.ascontiguousarray(chunk).data)
        values = checked_rows(chunk, input_dim, start).double()
        if normalize:
            values = torch.nn.functional.normalize(values, dim=1, eps=NORM_MIN)
        total += values.sum(0)
        squares += float(values.square().sum())
    mean = total / rows
    variance = squares / rows - float(mean.square().sum())
    if variance <= 1e-9 * squares / rows:
        raise InvalidTrainingData(f"all {rows} embeddings are alike; there is nothing to learn")
    return DataSummary(rows, digest.hexdigest(), mean.float(), variance)


def _chunks(embeddings: "np.ndarray[Any, Any]") -> Iterator[tuple[int, "np.ndarray[Any, Any]"]]:
    for start in range(0, len(embeddings), _ROWS_PER_CHUNK):
        yield start, embeddings[start : start + _ROWS_PER_CHUNK]
