"""Codes in a .npy file: an array of records, written as a stream and read by memory map."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from csr_model.codes import Codes

Array = np.ndarray[Any, Any]


def write_codes(path: str | os.PathLike[str], parts: Iterable[Codes[Array]], k: int) -> int:
    """Write codes part by part and return the number of rows.

    The file takes its name only when it is complete; an error leaves none behind, or the previous one.

    Args:
        path: Of the .npy file.
        parts: Codes [b, k] in order; one is held in memory at a time.
        k: Width of all of them.
    """
    record = np.dtype([("latents", "<u2", (k,)), ("weights", "<f4", (k,))])
    unfinished = Path(f"{os.fspath(path)}.unfinished")
    rows = 0
    try:
        with unfinished.open("wb") as file:
            _write_header(file, record, rows)
            for part in parts:
                records = np.empty(len(part.latents), record)
                records["latents"], records["weights"] = part
                file.write(records.tobytes())
                rows += len(records)
            file.seek(0)
            _write_header(file, record, rows)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return rows


def read_codes(path: str | os.PathLike[str]) -> Codes[Array]:
    """Return the codes that `write_codes` wrote, read from the file as they are used."""
    records = np.load(path, mmap_mode="r")
    return Codes(records["latents"], records["weights"])


def _write_header(file: BinaryIO, record: np.dtype[Any], rows: int) -> None:
    # Numpy pads the header for a growing first axis, so a later, larger count fits the same bytes.
    header = {"descr": np.lib.format.dtype_to_descr(record), "fortran_order": False, "shape": (rows,)}
    np.lib.format.write_array_header_1_0(file, header)
