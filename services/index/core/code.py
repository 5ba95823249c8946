"""The arithmetic of codes: validate, normalise, quantise, cut to a prefix. numpy and numba.

A code is a set of latents with weights > 0, by weight descending, then latent ascending. Stored weights are
ŵ = round(65535 · w / ‖w‖₂) as u16, halves to even; weights that round to 0 are dropped. Writers and readers
take their ŵ from here, so scores agree to the last bit wherever they are computed; the tests' oracle computes its own.
"""

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from services.index.core.compiled import compiled, inlined
from services.index.core.errors import CoreError, InvalidCode
from services.index.core.shapes import F32, I64, U16, U32

WEIGHT_ONE = 65_535
"""The stored weight of a code with one latent: w = 1."""


_NOT_FINITE, _NEGATIVE, _AFTER_ZERO, _RISES, _TOO_MANY, _NO_LATENT, _REPEATED, _ZERO = range(1, 9)
_FAULTS: Final = {
    _NOT_FINITE: ("weights", "must be finite"),
    _NEGATIVE: ("weights", "must not be negative"),
    _AFTER_ZERO: ("weights", "must not have a zero before a positive weight"),
    _RISES: ("weights", "must descend"),
    _TOO_MANY: ("latents", "must be at most {active_max}"),
    _NO_LATENT: ("latents", "must lie in 0..{last}"),
    _REPEATED: ("latents", "must not repeat"),
    _ZERO: ("weights", "must not be 0"),
}


class Codes(NamedTuple):
    """Stored codes, row by row: u16 [n, width] each, ordered as above, weight 0 and latent 0 behind the last."""

    latents: NDArray[np.uint16]
    weights: NDArray[np.uint16]


def levels(k_max: int) -> tuple[int, ...]:
    """Return the k at which documents answer: the powers of two below k_max, then k_max."""
    return (*(1 << power for power in range((k_max - 1).bit_length())), k_max)


def quantise(latents: ArrayLike, weights: ArrayLike, *, hidden_dim: int, active_max: int) -> Codes:
    """Turn codes of a model into stored codes.

    Args:
        latents: Integer [n, width]. Ignored where the weight is 0.
        weights: Floating [n, width], read as float32; descending in every row, so zeros only at the end.
            Any scale: rows are L2-normalised, in float64 and in the given order.
        hidden_dim: Latents lie in 0..hidden_dim - 1.
        active_max: Most weights > 0 in one row.

    Returns:
        Codes of the same width. A row without weights is legal and stays empty.

    Raises:
        InvalidCode: wrong dtype or shape, NaN, Inf, negative or unordered weights, a zero before a positive weight,
            latents out of range or twice in a row, or too many.
    """
    wide, real = _matrices(latents, weights)
    stored = Codes(np.empty(wide.shape, np.uint16), np.empty(wide.shape, np.uint16))
    _refuse(*_quantise(wide, real, hidden_dim, active_max, *stored), hidden_dim, active_max)
    return stored


def compile_quantise() -> None:
    """Compile `quantise`, so that no request waits for it: a second on a new machine, then read from the disk."""
    quantise(np.zeros((1, 1), np.int64), np.ones((1, 1), np.float32), hidden_dim=1, active_max=1)


def from_ragged(
    lengths: ArrayLike, latents: ArrayLike, weights: ArrayLike, *, hidden_dim: int, active_max: int
) -> Codes:
    """Rebuild stored codes from flat arrays, the form in which the log keeps them; weights stay as they are.

    Args:
        lengths: Integer [n], weights in each code.
        latents: Integer [sum of lengths].
        weights: uint16 [sum of lengths], ŵ from `quantise`; descending within each code and never 0.
        hidden_dim: Latents lie in 0..hidden_dim - 1.
        active_max: Most weights in one code; the width of the result.

    Raises:
        InvalidCode: as `quantise`.
    """
    counts = as_array("lengths", lengths)
    flat_latents, flat_weights = as_array("latents", latents), as_array("weights", weights)
    if counts.ndim != 1 or (counts.size and counts.dtype.kind not in "iu"):
        raise InvalidCode(f"lengths must be integers [n], not {counts.dtype} {list(counts.shape)}")
    if counts.size and not 0 <= int(counts.min()) <= int(counts.max()) <= active_max:
        raise InvalidCode(f"lengths must lie in 0..{active_max}, not {counts.min()}..{counts.max()}")
    total = int(counts.sum())
    if flat_latents.shape != (total,) or (total and flat_latents.dtype.kind not in "iu"):
        raise InvalidCode(f"latents must be integers [{total}], not {flat_latents.dtype} {list(flat_latents.shape)}")
    if flat_weights.shape != (total,) or (total and flat_weights.dtype != np.uint16):
        raise InvalidCode(f"weights must be uint16 [{total}], not {flat_weights.dtype} {list(flat_weights.shape)}")
    stored = Codes(*np.empty((2, len(counts), active_max), np.uint16))
    wide, flat = _for_kernel(flat_latents, np.int64), _for_kernel(flat_weights, np.uint16)
    found = _restore(_for_kernel(counts, np.int64), wide, flat, hidden_dim, active_max, *stored)
    _refuse(*found, hidden_dim, active_max)
    return stored


def to_ragged(codes: Codes) -> tuple[NDArray[np.int64], NDArray[np.uint16], NDArray[np.uint16]]:
    """Return (lengths, latents, weights): the flat arrays that `from_ragged` reads."""
    active = codes.weights > 0
    return active.sum(axis=1, dtype=np.int64), codes.latents[active], codes.weights[active]


def with_width(codes: Codes, width: int) -> Codes:
    """Cut codes to their first `width` latents, or pad them."""
    missing = width - codes.latents.shape[1]
    if missing <= 0:
        return Codes(*(np.ascontiguousarray(part[:, :width]) for part in codes))
    return Codes(*(np.pad(part, ((0, 0), (0, missing))) for part in codes))


def as_array(name: str, given: ArrayLike, error: type[CoreError] = InvalidCode) -> NDArray[Any]:
    """Return an argument as an array of whatever type and shape it has.

    Raises:
        error: it has none.
    """
    try:
        return np.asarray(given)
    except (TypeError, ValueError) as reason:
        raise error(f"{name} must be an array: {reason}") from None


def _matrices(latents: ArrayLike, weights: ArrayLike) -> tuple[I64, F32]:
    wide, given = as_array("latents", latents), as_array("weights", weights)
    if wide.ndim != 2 or wide.dtype.kind not in "iu":
        raise InvalidCode(f"latents must be integers [n, k], not {wide.dtype} {list(wide.shape)}")
    if given.dtype.kind != "f" or given.shape != wide.shape:
        raise InvalidCode(f"weights must be float32 {list(wide.shape)}, not {given.dtype} {list(given.shape)}")
    if given.dtype != np.float32:
        with np.errstate(over="ignore", under="ignore"):
            given = given.astype(np.float32)
    return _for_kernel(wide, np.int64), _for_kernel(given, np.float32)


def _for_kernel(array: NDArray[Any], dtype: type[np.generic]) -> NDArray[Any]:
    """Return the array in the one form that is compiled for: read-only arrays, for example, are another type."""
    if array.dtype == dtype and array.flags.c_contiguous and array.flags.writeable and array.flags.aligned:
        return array
    return np.array(array, dtype, order="C")


def _refuse(row: int, fault: int, hidden_dim: int, active_max: int) -> None:
    if fault:
        field, rule = _FAULTS[fault]
        raise InvalidCode(f"{field} of row {row} {rule.format(active_max=active_max, last=hidden_dim - 1)}")


@compiled
def _quantise(
    latents: I64, weights: F32, hidden_dim: int, active_max: int, stored_latents: U16, stored_weights: U16
) -> tuple[int, int]:
    """Write stored codes; return the first wrong row and what is wrong there, a key of `_FAULTS`, or (0, 0)."""
    count, width = latents.shape
    seen = np.zeros(hidden_dim, np.bool_)
    keys = np.empty(width, np.uint32)
    for row in range(count):
        active, square, fault = _check(latents[row], weights[row], hidden_dim, active_max, seen)
        if fault:
            return row, fault
        norm = np.sqrt(square)
        kept = 0
        for rank in range(active):
            weight = np.uint32(np.rint(WEIGHT_ONE * (np.float64(weights[row, rank]) / norm)))
            if weight:
                _insert(keys, kept, latents[row, rank], weight)
                kept += 1
        _write(keys, kept, stored_latents, stored_weights, row)
    return 0, 0


@compiled
def _restore(
    lengths: I64,
    latents: I64,
    weights: U16,
    hidden_dim: int,
    active_max: int,
    stored_latents: U16,
    stored_weights: U16,
) -> tuple[int, int]:
    """As `_quantise`, from flat arrays of stored weights, of which none may be 0."""
    seen = np.zeros(hidden_dim, np.bool_)
    keys = np.empty(active_max, np.uint32)
    begin = 0
    for row in range(len(lengths)):
        end = begin + lengths[row]
        active, _, fault = _check(latents[begin:end], weights[begin:end], hidden_dim, active_max, seen)
        if fault or active < lengths[row]:
            return row, fault or _ZERO
        for rank in range(active):
            _insert(keys, rank, latents[begin + rank], np.uint32(weights[begin + rank]))
        _write(keys, active, stored_latents, stored_weights, row)
        begin = end
    return 0, 0


@inlined
def _check(
    latents: I64, weights: F32 | U16, hidden_dim: int, active_max: int, seen: NDArray[np.bool_]
) -> tuple[int, float, int]:
    """Return how many weights are > 0, their sum of squares from left to right, and what is wrong.

    seen is scratch [h], all False before and, where nothing is wrong, after.
    """
    active, square = 0, 0.0
    for rank in range(len(weights)):
        weight = np.float64(weights[rank])
        if not np.isfinite(weight):
            return 0, 0.0, _NOT_FINITE
        if weight < 0:
            return 0, 0.0, _NEGATIVE
        if rank > 0 and weight > weights[rank - 1]:
            return 0, 0.0, _AFTER_ZERO if weights[rank - 1] == 0 else _RISES
        active += int(weight > 0)
        square += weight * weight
    if active > active_max:
        return 0, 0.0, _TOO_MANY
    for rank in range(active):
        if latents[rank] < 0 or latents[rank] >= hidden_dim:
            return 0, 0.0, _NO_LATENT
        if seen[latents[rank]]:
            return 0, 0.0, _REPEATED
        seen[latents[rank]] = True
    for rank in range(active):
        seen[latents[rank]] = False
    return active, square, 0


@inlined
def _insert(keys: U32, kept: int, latent: np.int64, weight: np.uint32) -> None:
    """Put one more latent in order; its weight is no greater than the `kept` before."""
    keys[kept] = ((np.uint32(WEIGHT_ONE) - weight) << np.uint32(16)) | np.uint32(latent)
    # Weights descend already, so only latents of equal weights are still to be ordered.
    place = kept
    while place > 0 and keys[place - 1] > keys[place]:
        keys[place - 1], keys[place] = keys[place], keys[place - 1]
        place -= 1


@inlined
def _write(keys: U32, kept: int, latents: U16, weights: U16, row: int) -> None:
    """Write the code of a row, and 0 behind its last latent."""
    for rank in range(latents.shape[1]):
        latents[row, rank] = keys[rank] & np.uint32(0xFFFF) if rank < kept else 0
        weights[row, rank] = WEIGHT_ONE - (keys[rank] >> np.uint32(16)) if rank < kept else 0
