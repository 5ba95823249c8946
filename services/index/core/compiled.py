"""The one way to compile a kernel, so that all share the same promises."""

from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

import numba

Kernel = TypeVar("Kernel", bound=Callable[..., Any])

KERNELS: Final[list[Any]] = []
"""Every kernel of the modules imported so far, as numba's dispatchers."""


def compiled(function: Kernel) -> Kernel:
    """Compile to machine code that releases the GIL, is cached on disk and never reorders floating point."""
    kernel = numba.njit(nogil=True, cache=True)(function)
    KERNELS.append(kernel)
    return cast(Kernel, kernel)
