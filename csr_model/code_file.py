"""Codes in a .npy file: an array of records, written as a stream and read by memory map."""

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from csr_model.codes import Codes
from csr_model.errors import ArtifactCorrupt, ArtifactError
from csr_model.new_folder import sync

Array = np.ndarray[Any, Any]


def write_codes(path: str | os.PathLike[str], parts: Iterable[Codes[Array]], k: int) -> int:
    """Write codes part by part and return the number of rows.

    The file takes its name only when it is complete; an error leaves none behind, or the previous one.

    Args:
        path: Of the .npy file.
        parts: Codes [b, k] in order; one is held in memory at a time.
        k: Width of all of them.

    Raises:
        ArtifactError: The file system refused.
    """
    target, record, rows = Path(path), _record((k,)), 0
    with _refused_as_artifact_error(target):
        if target.is_dir():
            raise IsADirectoryError("it is a folder")
        descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    unfinished, file = Path(name), os.fdopen(descriptor, "wb")
    try:
        _write_header(file, record, rows)
        for part in parts:
            records = np.empty(len(part.latents), record)
            records["latents"], records["weights"] = part
            with _refused_as_artifact_error(target):
                file.write(records.tobytes())
            rows += len(records)
        with _refused_as_artifact_error(target):
            file.seek(0)
            _write_header(file, record, rows)
            file.flush()
            unfinished.chmod(0o644)  # mkstemp makes it private
            sync(unfinished)
            unfinished.replace(target)
            sync(target.parent)
    finally:
        with suppress(OSError):  # a full disk, told of above, fails once more
            file.close()
        unfinished.unlink(missing_ok=True)
    return rows


def read_codes(path: str | os.PathLike[str]) -> Codes[Array]:
    """Return the codes that `write_codes` wrote, read from the file as they are used.

    Raises:
        ArtifactCorrupt: The file is missing, incomplete, or holds something else.
    """
    try:
        records = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError, OverflowError) as error:
        raise ArtifactCorrupt(f"cannot read codes from {path}: {error}") from error
    dtype = records.dtype
    named = records.ndim == 1 and dtype.names == ("latents", "weights")
    if not named or dtype != _record(dtype["latents"].shape):
        raise ArtifactCorrupt(f"{path} holds {dtype} of shape {records.shape}, which are no codes")
    return Codes(records["latents"], records["weights"])


def _record(width: tuple[int, ...]) -> np.dtype[Any]:
    return np.dtype([("latents", "<u2", width), ("weights", "<f4", width)])


def _write_header(file: BinaryIO, record: np.dtype[Any], rows: int) -> None:
    # Numpy pads the header for a growing first axis, so a later, larger count fits the same bytes.
    header = {"descr": np.lib.format.dtype_to_descr(record), "fortran_order": False, "shape": (rows,)}
    np.lib.format.write_array_header_1_0(file, header)


@contextmanager
def _refused_as_artifact_error(path: Path) -> Iterator[None]:
    # Around writes only: an error of the caller's own batches stays what it is.
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise ArtifactError(f"cannot write {path}: {error}") from error
