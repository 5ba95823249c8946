"""Arguments of the index's methods, checked: every message names the argument and its limit."""

import math
from collections.abc import Collection

import numpy as np
from numpy.typing import ArrayLike, NDArray

from services.index.core import planner
from services.index.core.errors import InvalidRows, InvalidSearch
from services.index.core.limits import K_MAX, PARTITION_MAX, TOP_N_MAX
from services.index.core.planner import KERNELS, Kernel
from services.index.core.search import Options


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
    of_query = next((given for given in (k, k_query) if given is not None), K_MAX)
    of_docs = next((given for given in (k, k_docs) if given is not None), levels[-1])
    require_int("k_query", of_query, 1, K_MAX)
    if not is_int(of_docs) or of_docs not in levels:
        raise InvalidSearch(f"k_docs must be a level, one of {', '.join(map(str, levels))}, not {of_docs!r}")
    floor = 0.0 if min_score is None else min_score
    if isinstance(floor, bool) or not isinstance(floor, int | float) or not math.isfinite(floor):
        raise InvalidSearch(f"min_score must be a finite number, not {min_score!r}")
    if kernel is not None and kernel not in KERNELS:
        raise InvalidSearch(f"kernel must be one of {', '.join(KERNELS)}, not {kernel!r}")
    chosen_kernel = planner.ANY if kernel is None else KERNELS.index(kernel)
    return Options(
        int(top_n), int(of_query), int(of_docs), levels.index(of_docs), max(float(floor), 0.0), chosen_kernel
    )


def owners(partitions: ArrayLike | None, count: int) -> NDArray[np.uint16]:
    """Return the partition of each row, 0 by default.

    Raises:
        InvalidRows: not one integer for each row, or out of range.
    """
    if partitions is None:
        return np.zeros(count, np.uint16)
    given = np.asarray(partitions)
    if given.shape != (count,) or (count and given.dtype.kind not in "iu"):
        raise InvalidRows(f"partitions must be integers [{count}], not {given.dtype} {list(given.shape)}")
    if count and not 0 <= int(given.min()) <= int(given.max()) <= PARTITION_MAX:
        raise InvalidRows(f"partitions must lie in 0..{PARTITION_MAX}, not {given.min()}..{given.max()}")
    return given.astype(np.uint16)


def chosen(partitions: Collection[int]) -> list[int]:
    """Check partitions to search.

    Raises:
        InvalidSearch: one out of range.
    """
    numbers = [int(partition) if is_int(partition) else partition for partition in partitions]
    for partition in numbers:
        require_int("partitions", partition, 0, PARTITION_MAX)
    return numbers


def is_int(value: object) -> bool:
    """Tell whether a value is an integer, Python's or numpy's; True and False are not."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def require_int(name: str, value: object, least: int, most: int) -> None:
    """Check a number.

    Raises:
        InvalidSearch: not an integer from least to most.
    """
    if not (isinstance(value, int | np.integer) and is_int(value) and least <= value <= most):
        raise InvalidSearch(f"{name} must be {least}..{most}, not {value!r}")
