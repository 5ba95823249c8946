"""The three ways to compile kernels and their parts, with the same promises: no GIL, no reordered floating point."""

import hashlib
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., Any])

COMPILED: Final[list[Any]] = []
"""Every kernel that Python calls, of the modules imported so far, as numba's dispatchers."""
_DIGEST_LENGTH = 16
_UNUSED_SECONDS = 30 * 24 * 3600.0
"""Machine code is removed when no program has started with it for so long."""


def _cache_folder() -> Path | None:
    """Return where machine code of exactly these sources is kept; None where nothing can be written.

    numba by itself looks at the file of the function that Python calls, and would go on using machine code that
    contains an older version of a function from another file.
    """
    sources = Path(__file__).parent
    content = b"".join(path.read_bytes() for path in sorted(sources.glob("*.py")))
    digest = hashlib.sha256(content).hexdigest()[:_DIGEST_LENGTH]
    chosen = [Path(numba.config.CACHE_DIR)] if numba.config.CACHE_DIR else []
    for parent in (*chosen, sources / "__pycache__", Path("~/.cache/csr")):
        try:
            folder = parent.expanduser() / f"kernels-{digest}"
            is_new = not folder.exists()
            folder.mkdir(parents=True, exist_ok=True)
        except (OSError, RuntimeError):
            continue
        if os.access(folder, os.W_OK):
            with suppress(OSError):
                os.utime(folder)
            if is_new:
                _remove_unused(folder.parent)
            return folder
    return None


def _remove_unused(parent: Path) -> None:
    """Remove the machine code of sources that are gone, as each of their versions leaves some.

    Whoever still uses it, or removes it too, loses nothing: a kernel whose machine code is missing is compiled again.
    """
    for folder in parent.glob("kernels-" + "[0-9a-f]" * _DIGEST_LENGTH):
        with suppress(OSError):
            if time.time() - folder.stat().st_mtime > _UNUSED_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)


CACHE_FOLDER: Final = _cache_folder()


def compiled(function: Function) -> Function:
    """Compile a kernel that Python calls, and keep its machine code on disk."""
    kernel = numba.njit(nogil=True)(function)
    if CACHE_FOLDER:
        others, numba.config.CACHE_DIR = numba.config.CACHE_DIR, str(CACHE_FOLDER)
        kernel.enable_caching()
        numba.config.CACHE_DIR = others
    COMPILED.append(kernel)
    return cast(Function, kernel)


def inlined(function: Function) -> Function:
    """Compile a part of other kernels.

    It is not kept on disk itself: from there it could only be called, and a call costs more than many of these do.
    """
    return cast(Function, numba.njit(nogil=True)(function))


def borrowing(function: Function) -> Function:
    """Compile a part of other kernels that makes no array and returns none, and calls only such parts.

    For every array that it is given, numba counts a reference up and down again, by atomic instructions: with a dozen
    arrays a call that takes them costs more than what it does. This one goes without, as its caller holds them all. The
    option has no documentation, though numba uses it itself; a test sees that it is still there.
    """
    return cast(Function, numba.njit(nogil=True, _nrt=False)(function))
