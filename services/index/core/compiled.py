"""The one way to compile a kernel, so that all share the same promises."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

Kernel = TypeVar("Kernel", bound=Callable[..., Any])


def compiled(function: Kernel) -> Kernel:
    """Compile to machine code that releases the GIL, is cached on disk and never reorders floating point."""
    return cast(Kernel, numba.njit(nogil=True, cache=True)(function))
