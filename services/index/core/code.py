"""The arithmetic of codes: validate, normalise, quantise, cut to a prefix. numpy and numba.

A code is a set of latents with weights > 0, by weight descending, then latent ascending. Stored weights are
ŵ = round(65535 · w / ‖w‖₂) as u16, halves to even; weights that round to 0 are dropped. Writers, readers and the
oracle of the tests all take their ŵ from here, so scores agree to the last bit wherever they are computed.
"""

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from services.index.core.compiled import compiled, inlined
from services.index.core.errors import InvalidCode
from services.index.core.shapes import F32, I64, U16

WEIGHT_ONE = 65_535
"""The stored weight of a code with one latent: w = 1."""


_FAULTS: Final = {
    1: ("weights", "must be finite"),
    2: ("weights", "must not be negative"),
    3: ("weights", "must not have a zero before a positive weight"),
    4: ("weights", "must descend"),
    5: ("latents", "must be at most {active_max}"),
    6: ("latents", "must lie in 0..{last}"),
    7: ("latents", "must not repeat"),
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
    stored = np.empty(wide.shape, np.uint16), np.empty(wide.shape, np.uint16)
    row, fault = _quantise(wide, real, hidden_dim, active_max, *stored)
    if fault:
        field, rule = _FAULTS[fault]
        raise InvalidCode(f"{field} of row {row} {rule.format(active_max=active_max, last=hidden_dim - 1)}")
    return Codes(*stored)


def warmup() -> None:
    """Compile `quantise`, so that no request waits for it: a second on a new machine, then read from the disk."""
    quantise(np.zeros((1, 1), np.int64), np.ones((1, 1), np.float32), hidden_dim=1, active_max=1)


def from_ragged(
    lengths: ArrayLike, latents: ArrayLike, weights: ArrayLike, *, hidden_dim: int, active_max: int
) -> Codes:
    """Rebuild stored codes from flat arrays, the form in which the log keeps them.

    Args:
        lengths: Integer [n], weights in each code.
        latents: Integer [sum of lengths].
        weights: uint16 [sum of lengths], ŵ from `quantise`; descending within each code and never 0.
        hidden_dim: Latents lie in 0..hidden_dim - 1.
        active_max: Most weights in one code; the width of the result.

    Raises:
        InvalidCode: as `quantise`.
    """
    counts, flat_latents, flat_weights = np.asarray(lengths), np.asarray(latents), np.asarray(weights)
    if counts.ndim != 1 or (counts.size and counts.dtype.kind not in "iu"):
        raise InvalidCode(f"lengths must be integers [n], not {counts.dtype} {list(counts.shape)}")
    if counts.size and not 0 <= int(counts.min()) <= int(counts.max()) <= active_max:
        raise InvalidCode(f"lengths must lie in 0..{active_max}, not {counts.min()}..{counts.max()}")
    total = int(counts.sum())
    if flat_latents.shape != (total,) or (total and flat_latents.dtype.kind not in "iu"):
        raise InvalidCode(f"latents must be integers [{total}], not {flat_latents.dtype} {list(flat_latents.shape)}")
    if flat_weights.shape != (total,) or (total and flat_weights.dtype != np.uint16):
        raise InvalidCode(f"weights must be uint16 [{total}], not {flat_weights.dtype} {list(flat_weights.shape)}")
    active = np.arange(active_max) < counts[:, None]
    wide = np.zeros(active.shape, flat_latents.dtype)
    stored = np.zeros(active.shape, np.uint16)
    wide[active], stored[active] = flat_latents, flat_weights
    _refuse(active & (stored == 0), "weights", "must not be 0")
    _refuse(stored[:, 1:] > stored[:, :-1], "weights", "must descend")
    _check_latents(wide, active, hidden_dim, active_max)
    return _ordered(wide, stored)


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


def _matrices(latents: ArrayLike, weights: ArrayLike) -> tuple[I64, F32]:
    wide, given = np.asarray(latents), np.asarray(weights)
    if wide.ndim != 2 or wide.dtype.kind not in "iu":
        raise InvalidCode(f"latents must be integers [n, k], not {wide.dtype} {list(wide.shape)}")
    if given.dtype.kind != "f" or given.shape != wide.shape:
        raise InvalidCode(f"weights must be float32 {list(wide.shape)}, not {given.dtype} {list(given.shape)}")
    if given.dtype != np.float32:
        with np.errstate(over="ignore", under="ignore"):
            given = given.astype(np.float32)
    # Read-only arrays are another type to numba, which would compile for seconds.
    return np.require(wide, np.int64, ["C", "W"]), np.require(given, np.float32, ["C", "W"])


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
                keys[kept] = ((np.uint32(WEIGHT_ONE) - weight) << np.uint32(16)) | np.uint32(latents[row, rank])
                # Weights descend already, so only latents of equal weights are still to be ordered.
                place = kept
                while place > 0 and keys[place - 1] > keys[place]:
                    keys[place - 1], keys[place] = keys[place], keys[place - 1]
                    place -= 1
                kept += 1
        for rank in range(width):
            stored_latents[row, rank] = keys[rank] & np.uint32(0xFFFF) if rank < kept else 0
            stored_weights[row, rank] = WEIGHT_ONE - (keys[rank] >> np.uint32(16)) if rank < kept else 0
    return 0, 0


@inlined
def _check(
    latents: I64, weights: F32, hidden_dim: int, active_max: int, seen: NDArray[np.bool_]
) -> tuple[int, float, int]:
    """Return how many weights are > 0, their sum of squares from left to right, and what is wrong.

    seen is scratch [h], all False before and, where nothing is wrong, after.
    """
    active, square = 0, 0.0
    for rank in range(len(weights)):
        weight = np.float64(weights[rank])
        if not np.isfinite(weight):
            return 0, 0.0, 1
        if weight < 0:
            return 0, 0.0, 2
        if rank > 0 and weight > weights[rank - 1]:
            return 0, 0.0, 3 if weights[rank - 1] == 0 else 4
        active += int(weight > 0)
        square += weight * weight
    if active > active_max:
        return 0, 0.0, 5
    for rank in range(active):
        if latents[rank] < 0 or latents[rank] >= hidden_dim:
            return 0, 0.0, 6
        if seen[latents[rank]]:
            return 0, 0.0, 7
        seen[latents[rank]] = True
    for rank in range(active):
        seen[latents[rank]] = False
    return active, square, 0


def _check_latents(wide: NDArray[Any], active: NDArray[np.bool_], hidden_dim: int, active_max: int) -> None:
    counts = active.sum(axis=1)
    _refuse((counts > active_max)[:, None], "latents", f"must be at most {active_max}")
    _refuse(active & ((wide < 0) | (wide >= hidden_dim)), "latents", f"must lie in 0..{hidden_dim - 1}")
    # Padding gets numbers that no latent has, all different, so that only true repeats are neighbours after sorting.
    distinct = np.sort(np.where(active, wide.astype(np.int64), hidden_dim + np.arange(wide.shape[1])), axis=1)
    _refuse(distinct[:, 1:] == distinct[:, :-1], "latents", "must not repeat")


def _ordered(wide: NDArray[Any], stored: NDArray[np.uint16]) -> Codes:
    """Order each row by weight descending, then latent ascending: one u32 sort key holds both."""
    latents = np.where(stored > 0, wide, 0).astype(np.uint32)
    keys = np.sort(((WEIGHT_ONE - stored.astype(np.uint32)) << 16) | latents, axis=1)
    return Codes((keys & 0xFFFF).astype(np.uint16), (WEIGHT_ONE - (keys >> 16)).astype(np.uint16))


def _refuse(wrong: NDArray[np.bool_], name: str, rule: str) -> None:
    rows = wrong.any(axis=1)
    if rows.any():
        raise InvalidCode(f"{name} of row {int(rows.argmax())} {rule}")
