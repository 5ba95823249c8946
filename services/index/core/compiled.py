"""The two ways to compile a kernel, so that all share the same promises: no GIL, no reordered floating point."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import numba

Kernel = TypeVar("Kernel", bound=Callable[..., Any])

KERNELS: Final[list[Any]] = []
"""Every kernel that Python calls, of the modules imported so far, as numba's dispatchers."""


def _cache_folder() -> Path | None:
    """Return where machine code of exactly these sources is kept; None where nothing can be written.

    numba by itself looks at the file of the function that Python calls, and would go on using machine code that
    contains an older version of a function from another file.
    """
    sources = Path(__file__).parent
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(sources.glob("*.py")))).hexdigest()[:16]
    chosen = [Path(numba.config.CACHE_DIR)] if numba.config.CACHE_DIR else []
    for parent in (*chosen, sources / "__pycache__", Path("~/.cache/csr")):
        try:
            folder = parent.expanduser() / f"kernels-{digest}"
            folder.mkdir(parents=True, exist_ok=True)
        except (OSError, RuntimeError):
            continue
        if os.access(folder, os.W_OK):
            return folder
    return None


CACHE_FOLDER: Final = _cache_folder()


def compiled(function: Kernel) -> Kernel:
    """Compile a kernel that Python calls, and keep its machine code on disk."""
    kernel = numba.njit(nogil=True)(function)
    if CACHE_FOLDER:
        others, numba.config.CACHE_DIR = numba.config.CACHE_DIR, str(CACHE_FOLDER)
        kernel.enable_caching()
        numba.config.CACHE_DIR = others
    KERNELS.append(kernel)
    return cast(Kernel, kernel)


def inlined(function: Kernel) -> Kernel:
    """Compile a part of other kernels.

    It is not kept on disk itself: from there it could only be called, and a call costs more than many of these do.
    """
    return cast(Kernel, numba.njit(nogil=True)(function))
