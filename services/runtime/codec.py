"""Vectors between protobuf messages and numpy, validated at the door.

Every message names the field and the first offending row, so that a caller can fix the input without guessing.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from csr.v1 import vector_pb2
from services.runtime.errors import FingerprintMismatch, InvalidRequest, InvalidVector, LimitExceeded

_FLOAT = np.dtype("<f4")
_SHORT = np.dtype("<u2")
_FLOAT_MAX = np.finfo(np.float32).max
_HALF_MAX = float(np.finfo(np.float16).max)
_HALF_ZERO = float(np.finfo(np.float16).smallest_subnormal) / 2
"""The largest number that float16 rounds to 0."""


@dataclass(frozen=True)
class RaggedCodes:
    """Codes one after another: code i owns the slice [sum(lengths[:i]), sum(lengths[:i+1])) of latents and weights."""

    lengths: npt.NDArray[np.uint16]
    latents: npt.NDArray[np.uint16]
    weights: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def offsets(self) -> npt.NDArray[np.int64]:
        """Where each code begins, and one past the last: int64 [n + 1]."""
        return np.concatenate(([0], np.cumsum(self.lengths, dtype=np.int64)))

    def padded(self) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.float32]]:
        """Return latents uint16 [n, k], weights float32 [n, k]; k is the longest code, padding latent 0, weight 0."""
        k = int(self.lengths.max(initial=0))
        filled = np.arange(k) < self.lengths[:, None]
        latents = np.zeros(filled.shape, np.uint16)
        weights = np.zeros(filled.shape, np.float32)
        latents[filled] = self.latents
        weights[filled] = self.weights
        return latents, weights

    @staticmethod
    def from_padded(latents: npt.NDArray[np.uint16], weights: npt.NDArray[np.float32]) -> "RaggedCodes":
        """Drop trailing padding (weight 0) from latents [n, k] and weights [n, k]."""
        filled = weights > 0
        return RaggedCodes(filled.sum(axis=1).astype(np.uint16), latents[filled], weights[filled])


def embeddings_to_proto(embeddings: npt.NDArray[np.floating]) -> vector_pb2.EmbeddingBatch:
    """Pack embeddings [n, d] of any float type."""
    count, dim = embeddings.shape
    return vector_pb2.EmbeddingBatch(count=count, dim=dim, values=embeddings.astype(_FLOAT, copy=False).tobytes())


def embeddings_from_proto(
    batch: vector_pb2.EmbeddingBatch, field: str, input_dim: int | None = None
) -> npt.NDArray[np.float32]:
    """Unpack and check embeddings; returns a read-only float32 [n, d].

    Args:
        batch: The message.
        field: Its name in the request, for error texts.
        input_dim: The dimension it must have; None takes any.

    Raises:
        InvalidVector: wrong dimension, NaN, infinity (also after rounding to float16) or a row of zeros.
        InvalidRequest: no rows, or bytes that do not match count and dim.
    """
    if batch.count == 0:
        raise InvalidRequest(f"{field}.count: 0, at least one embedding is needed")
    if input_dim is not None and batch.dim != input_dim:
        raise InvalidVector(f"{field}.dim: {batch.dim}, the model takes {input_dim}")
    expected = batch.count * batch.dim * _FLOAT.itemsize
    if len(batch.values) != expected:
        raise InvalidRequest(
            f"{field}.values: {len(batch.values)} bytes, count {batch.count} x dim {batch.dim} float32 make {expected}"
        )
    embeddings = np.frombuffer(batch.values, _FLOAT).reshape(batch.count, batch.dim)
    check_embeddings(embeddings, field)
    return embeddings


def check_embeddings(embeddings: npt.NDArray[np.float32], field: str) -> None:
    """Refuse rows that cannot be stored as float16: NaN, beyond ±65,504, or zeros.

    Raises:
        InvalidVector: naming the first offending row.
    """
    # One pass for the many that are fine; NaN is in no range.
    greatest = np.maximum(embeddings.max(axis=1, initial=0), -embeddings.min(axis=1, initial=0))
    if ((greatest > _HALF_ZERO) & (greatest <= _HALF_MAX)).all():
        return
    finite = np.abs(embeddings) <= _HALF_MAX
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        raise InvalidVector(
            f"{field}[{row}][{column}]: {embeddings[row, column]}, must be finite and within ±{_HALF_MAX:.0f} (float16)"
        )
    row = int(np.argmin(greatest > _HALF_ZERO))
    raise InvalidVector(f"{field}[{row}]: all zeros (in float16), an embedding has a direction")


def codes_to_proto(codes: RaggedCodes, fingerprint: str) -> vector_pb2.CodeBatch:
    """Pack codes; order of latents is kept."""
    return vector_pb2.CodeBatch(
        count=len(codes),
        lengths=codes.lengths.astype(_SHORT, copy=False).tobytes(),
        latents=codes.latents.astype(_SHORT, copy=False).tobytes(),
        weights=codes.weights.astype(_FLOAT, copy=False).tobytes(),
        fingerprint=fingerprint,
    )


def codes_from_proto(
    batch: vector_pb2.CodeBatch, field: str, hidden_dim: int, active_max: int, fingerprint: str
) -> RaggedCodes:
    """Unpack and check codes.

    Args:
        batch: The message.
        field: Its name in the request, for error texts.
        hidden_dim: Latents of the model.
        active_max: Most active latents a code may have.
        fingerprint: Fingerprint of the model that the codes must come from.

    Raises:
        FingerprintMismatch: codes of another model.
        InvalidVector: latents out of range or repeated, weights not finite, not positive or not descending.
        LimitExceeded: more than active_max latents.
        InvalidRequest: no codes, or bytes that do not match.
    """
    if batch.fingerprint != fingerprint:
        raise FingerprintMismatch(
            f"{field}.fingerprint: {batch.fingerprint or 'none'}, the collection holds codes of {fingerprint}"
        )
    if batch.count == 0:
        raise InvalidRequest(f"{field}.count: 0, at least one code is needed")
    if len(batch.lengths) != batch.count * _SHORT.itemsize:
        raise InvalidRequest(
            f"{field}.lengths: {len(batch.lengths)} bytes, {batch.count} uint16 make {batch.count * 2}"
        )
    lengths = np.frombuffer(batch.lengths, _SHORT)
    total = int(lengths.sum(dtype=np.int64))
    for name, value, size in (("latents", batch.latents, 2), ("weights", batch.weights, 4)):
        if len(value) != total * size:
            raise InvalidRequest(
                f"{field}.{name}: {len(value)} bytes, the lengths sum to {total}, which makes {total * size}"
            )
    codes = RaggedCodes(lengths, np.frombuffer(batch.latents, _SHORT), np.frombuffer(batch.weights, _FLOAT))
    if lengths.max() > active_max:
        row = int(np.argmax(lengths))
        raise LimitExceeded(f"{field}[{row}]: {lengths[row]} active latents, at most {active_max} are allowed")
    if not _are_codes(codes, hidden_dim):
        _refuse_codes(codes, field, hidden_dim)
    return codes


def _are_codes(codes: RaggedCodes, hidden_dim: int) -> bool:
    """Whether _refuse_codes would find nothing: a few passes, because every vector of every request comes by here."""
    latents, weights = codes.latents, codes.weights
    if latents.size == 0:
        return True
    # No comparison holds for NaN.
    if latents.max() >= hidden_dim or not (weights.min() > 0 and weights.max() <= _FLOAT_MAX):
        return False
    rising = weights[1:] > weights[:-1]
    keys = latents.astype(np.int64)
    if len(codes) > 1:
        first = codes.offsets[1:-1]
        rising[first[(first > 0) & (first < latents.size)] - 1] = False  # between two codes weights may rise
        keys += np.repeat(np.arange(len(codes)) << 16, codes.lengths)
    keys.sort()
    return not rising.any() and bool((keys[1:] > keys[:-1]).all())


def _refuse_codes(codes: RaggedCodes, field: str, hidden_dim: int) -> None:
    """Name the first value that is wrong, if one is.

    Raises:
        InvalidVector: naming it.
    """
    rows = np.repeat(np.arange(len(codes)), codes.lengths)

    def refuse(positions: npt.NDArray[np.intp], reason: str) -> None:
        if positions.size:
            at = int(positions[0])
            row = int(rows[at])
            place = at - int(codes.offsets[row])
            raise InvalidVector(
                f"{field}[{row}][{place}]: latent {codes.latents[at]}, weight {codes.weights[at]}: {reason}"
            )

    refuse(np.flatnonzero(codes.latents >= hidden_dim), f"latents are 0..{hidden_dim - 1}")
    refuse(np.flatnonzero(~np.isfinite(codes.weights)), "weights are finite")
    refuse(np.flatnonzero(codes.weights <= 0), "weights are positive")
    same_row = rows[1:] == rows[:-1]
    rising = codes.weights[1:] > codes.weights[:-1]
    refuse(np.flatnonzero(same_row & rising) + 1, "weights descend within a code")
    order = np.lexsort((codes.latents, rows))
    repeated = (np.diff(codes.latents[order].astype(np.int32)) == 0) & (rows[order][1:] == rows[order][:-1])
    refuse(order[1:][repeated], "latents are unique within a code")
    # Equal weights in any order: scaling a code to length 1 can make weights equal that were not when it was ordered.
