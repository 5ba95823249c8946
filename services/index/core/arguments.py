"""Arguments of the index's methods, checked: every message names the argument and its limit."""

import math
from collections.abc import Collection, Mapping
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from services.index.core import columns, planner
from services.index.core.code import as_array
from services.index.core.errors import CoreError, InvalidPositions, InvalidRows, InvalidSearch, InvalidState
from services.index.core.fields import Declared, is_keyword
from services.index.core.limits import K_MAX, LSN_MAX, PARTITION_MAX, TOP_N_MAX, VERSION_MAX
from services.index.core.planner import KERNELS, Kernel
from services.index.core.search import Options
from services.index.core.writer import State


def options(
    levels: tuple[int, ...],
    top_n: int,
    k: int | None,
    k_query: int | None,
    k_docs: int | None,
    min_score: float | None,
    kernel: Kernel | None,
) -> Options:
    """Check the options of a search; `levels` are those of the index.

    Raises:
        InvalidSearch: an option out of range.
    """
    require_int("top_n", top_n, 1, TOP_N_MAX)
    if k is not None and (k_query is not None or k_docs is not None):
        raise InvalidSearch("k sets k_query and k_docs both; give k alone, or the two")
    of_query = k if k is not None else K_MAX if k_query is None else k_query
    of_docs = k if k is not None else levels[-1] if k_docs is None else k_docs
    require_int("k_query", of_query, 1, K_MAX)
    if not is_int(of_docs) or of_docs not in levels:
        raise InvalidSearch(f"k_docs must be a level, one of {', '.join(map(str, levels))}, not {of_docs!r}")
    floor = 0.0 if min_score is None else _finite("min_score", min_score)
    if kernel is not None and kernel not in KERNELS:
        raise InvalidSearch(f"kernel must be one of {', '.join(KERNELS)}, not {kernel!r}")
    chosen_kernel = planner.ANY if kernel is None else KERNELS.index(kernel)
    return Options(int(top_n), int(of_query), int(of_docs), levels.index(of_docs), max(floor, 0.0), chosen_kernel)


def partition_of_rows(partitions: ArrayLike | None, count: int) -> NDArray[np.uint16]:
    """Return the partition of each row, 0 by default.

    Raises:
        InvalidRows: not one integer for each row, or out of range.
    """
    return _one_for_each("partitions", partitions, count, PARTITION_MAX, np.uint16)


def version_of_rows(versions: ArrayLike | None, count: int) -> NDArray[np.uint64]:
    """Return the version of each row, 0 by default.

    Raises:
        InvalidRows: not one integer for each row, or out of range.
    """
    return _one_for_each("versions", versions, count, VERSION_MAX, np.uint64)


def _one_for_each(
    name: str, values: ArrayLike | None, count: int, most: int, dtype: type[np.unsignedinteger[Any]]
) -> NDArray[Any]:
    if values is None:
        return np.zeros(count, dtype)
    given = as_array(name, values, InvalidRows)
    if given.shape != (count,) or (count and given.dtype.kind not in "iu"):
        raise InvalidRows(f"{name} must be integers [{count}], not {given.dtype} {list(given.shape)}")
    if count and not 0 <= int(given.min()) <= int(given.max()) <= most:
        raise InvalidRows(f"{name} must lie in 0..{most}, not {given.min()}..{given.max()}")
    return given.astype(dtype)


def some_partitions(partitions: Collection[int], error: type[CoreError] = InvalidSearch) -> NDArray[np.bool_]:
    """Return which of all partitions are among the given ones, [65,536].

    Raises:
        error: not a collection, or one out of range.
    """
    if not isinstance(partitions, Collection):
        raise error(f"partitions must be a collection of 0..{PARTITION_MAX}, not {partitions!r}")
    chosen = np.zeros(PARTITION_MAX + 1, np.bool_)
    for partition in partitions:
        require_int("partitions", partition, 0, PARTITION_MAX, error)
        chosen[partition] = True
    return chosen


def after(text: str | None) -> bytes:
    """Return what ids must come after, as UTF-8; nothing by default.

    Raises:
        InvalidSearch: not text.
    """
    if text is None:
        return b""
    if not is_keyword(text):
        raise InvalidSearch(f"after must be valid Unicode text, not {text!r:.80}")
    return text.encode()


def positions(lsns: Mapping[int, int] | None) -> dict[int, int]:
    """Return log positions by partition, none by default.

    Raises:
        InvalidPositions: not a mapping, or a partition or position out of range.
    """
    if not isinstance(lsns, Mapping | None):
        raise InvalidPositions(f"lsns must be a mapping from partition to position, not {lsns!r}")
    for partition, lsn in (lsns or {}).items():
        require_int("a partition of lsns", partition, 0, PARTITION_MAX, InvalidPositions)
        require_int(f"lsns[{partition}]", lsn, 0, LSN_MAX, InvalidPositions)
    return {int(partition): int(lsn) for partition, lsn in (lsns or {}).items()}


def require_state(state: State, hidden_dim: int, k_max: int, declared: Declared) -> None:
    """Check that a state can be one of an index with these dimensions and fields.

    Raises:
        InvalidState: it cannot; kernels would read past its arrays.
    """
    if not isinstance(state, State):
        raise InvalidState(f"at must be a state of this index, not {state!r}")
    latents = state.recent.latents
    if state.parts:
        same_latents = len(state.parts[0].segment.sealed.postings.units) == hidden_dim
    else:
        same_latents = latents.max(initial=0) < hidden_dim
    if not same_latents or latents.shape[1] != k_max or not columns.are_of(declared, state.recent.columns):
        raise InvalidState("at must be a state of this index, not of one with another hidden_dim, k_max or fields")


def is_int(value: object) -> bool:
    """Tell whether a value is an integer, Python's or numpy's; True and False are not."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def require_int(name: str, value: object, least: int, most: int, error: type[CoreError] = InvalidSearch) -> None:
    """Check a number.

    Raises:
        error: not an integer from least to most.
    """
    if not (isinstance(value, int | np.integer) and is_int(value) and least <= value <= most):
        raise error(f"{name} must be {least}..{most}, not {value!r}")


def _finite(name: str, value: object) -> float:
    try:
        number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    except OverflowError:  # an int beyond every float
        number = math.inf
    if not math.isfinite(number):
        raise InvalidSearch(f"{name} must be a finite number, not {value!r:.80}")
    return number
