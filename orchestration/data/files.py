"""Embeddings that a user brings: .npy (memory-mapped) or .parquet, with or without ids, labels and texts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as compute
import pyarrow.parquet as parquet
from numpy.typing import NDArray

from orchestration.data.cache import DataUnavailable
from orchestration.data.split import EmbeddedSplit, first_unusable

SUFFIXES: Final = (".npy", ".parquet")
COLUMNS: Final = ("id", "embedding", "label", "text")
"""Of a .parquet; all but the embedding may be absent, other columns are not read."""


class FileInvalid(DataUnavailable):
    """A file of the user that cannot be used; the text names file, column and row (the first is row 0)."""

    def __init__(self, path: Path, what: str, column: str | None = None) -> None:
        super().__init__(f"{path}: {what}" if column is None else f"{path}: column {column}: {what}")


def read_embeddings(path: Path) -> EmbeddedSplit:
    """Return the rows of a file.

    .npy: floats [n, dim]. float32 in row order stays on disk as a memory map, other floats are converted in memory. The
    id of a row is its number.

    .parquet: COLUMNS, read into memory. embedding: lists of floats, all of one length. id: strings or integers, unique;
    the row's number without it. label: strings or integers, numbered in ascending order. text: strings.

    Raises:
        FileInvalid: no such file, not of that format, a missing or mistyped column, a null, an id twice, rows of
            different lengths, or a row that is zero or not finite.
    """
    columns: dict[str, pa.ChunkedArray] = {}
    if path.suffix == ".npy":
        embeddings = _npy(path)
    elif path.suffix == ".parquet":
        columns = read_columns(path, COLUMNS, required=("embedding",))
        embeddings = lists_of_floats(path, columns["embedding"])
    else:
        raise FileInvalid(path, f"embeddings come as {' or '.join(SUFFIXES)}")
    if (row := first_unusable(embeddings)) is not None:
        raise FileInvalid(path, f"row {row} is zero or not finite", "embedding")
    ids = unique_ids(path, columns["id"]) if "id" in columns else [str(row) for row in range(len(embeddings))]
    labels, label_names = numbered_labels(path, columns["label"]) if "label" in columns else (None, [])
    texts = strings(path, "text", columns["text"]) if "text" in columns else [""] * len(ids)
    return EmbeddedSplit.of(ids, embeddings, labels, label_names, texts)


def read_columns(path: Path, names: Sequence[str], required: Sequence[str]) -> dict[str, pa.ChunkedArray]:
    """Return those of the named columns that a .parquet has.

    Raises:
        FileInvalid: it cannot be read, or lacks a required column.
    """
    try:
        there = parquet.read_schema(path).names
        if missing := [name for name in required if name not in there]:
            raise FileInvalid(path, f"it is missing; there are: {', '.join(there) or 'none'}", missing[0])
        table = parquet.read_table(path, columns=[name for name in names if name in there])
    except (OSError, pa.ArrowException) as error:
        raise FileInvalid(path, _reason(error, "a .parquet")) from error
    return dict(zip(table.column_names, table.columns, strict=True))


def read_array(path: Path) -> NDArray[Any]:
    """Return the memory map of a .npy.

    Raises:
        FileInvalid: it cannot be read.
    """
    try:
        # Not np.load, which tells people to unpickle whatever is no .npy, and opens a .npz under any name.
        array: NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError) as error:
        raise FileInvalid(path, _reason(error, "a .npy of numbers")) from error
    return array


def strings(path: Path, name: str, column: pa.ChunkedArray) -> list[str]:
    """Return strings or integers as strings.

    Raises:
        FileInvalid: another type, or a null.
    """
    check_no_null(path, name, column)
    values = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (pa.types.is_string(values) or pa.types.is_large_string(values) or pa.types.is_integer(values)):
        raise FileInvalid(path, f"it holds {values}, not strings or integers", name)
    return [str(value) for value in column.to_pylist()]


def check_no_null(path: Path, name: str, column: pa.ChunkedArray) -> None:
    """Raise FileInvalid if a row has no value."""
    if column.null_count:
        row = compute.index(column.is_null(), True).as_py()
        raise FileInvalid(path, f"row {row} is null", name)


def _reason(error: Exception, wanted: str) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    return f"it cannot be read as {wanted} ({first_line(error)})"


def first_line(error: Exception) -> str:
    """Return what an error says, without the advice for programmers that may follow."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def _npy(path: Path) -> NDArray[np.float32]:
    array = read_array(path)
    if array.ndim != 2 or 0 in array.shape:
        raise FileInvalid(path, f"its shape is {list(array.shape)}, not [rows, dimensions]")
    if not np.issubdtype(array.dtype, np.floating):
        raise FileInvalid(path, f"it holds {array.dtype}, not floats")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused as such
        return np.asanyarray(array, dtype=np.float32, order="C")


def lists_of_floats(path: Path, column: pa.ChunkedArray) -> NDArray[np.float32]:
    """Return embeddings [rows, dim].

    Raises:
        FileInvalid: another type, no rows, a null, or rows of different lengths.
    """
    kind = column.type
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not (lists and pa.types.is_floating(kind.value_type)):
        raise FileInvalid(path, f"it holds {kind}, not lists of floats", "embedding")
    if not len(column):
        raise FileInvalid(path, "it has no rows", "embedding")
    check_no_null(path, "embedding", column)
    lengths = compute.list_value_length(column).to_numpy()
    dim = int(lengths[0])
    if dim == 0 or len(odd := np.flatnonzero(lengths != dim)):
        row = 0 if dim == 0 else int(odd[0])
        raise FileInvalid(path, f"row {row} has {lengths[row]} numbers, row 0 has {dim}", "embedding")
    embeddings = np.empty((len(column), dim), dtype=np.float32)
    start = 0
    for chunk in column.chunks:
        with np.errstate(over="ignore"):
            # A null among the numbers becomes NaN, which is refused with its row.
            embeddings[start : start + len(chunk)] = chunk.flatten().to_numpy(zero_copy_only=False).reshape(-1, dim)
        start += len(chunk)
    return embeddings


def unique_ids(path: Path, column: pa.ChunkedArray) -> list[str]:
    """Return ids as strings.

    Raises:
        FileInvalid: another type, a null, or an id twice.
    """
    ids = strings(path, "id", column)
    seen: dict[str, int] = {}
    for row, name in enumerate(ids):
        if (first := seen.setdefault(name, row)) != row:
            raise FileInvalid(path, f"row {row} has the id of row {first}, {name!r}", "id")
    return ids


def numbered_labels(path: Path, column: pa.ChunkedArray) -> tuple[NDArray[np.int64], list[str]]:
    """Return labels [rows] as numbers, and the names that they number in ascending order.

    Raises:
        FileInvalid: another type, or a null.
    """
    strings(path, "label", column)  # checks the type
    names, labels = np.unique(np.array(column.to_pylist()), return_inverse=True)
    return labels.astype(np.int64), [str(name) for name in names]
