"""A user's embeddings as a set: which rows are learned from, and which judge."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from orchestration.data.files import FileInvalid, read_array, read_columns, read_embeddings, strings
from orchestration.data.sets import EmbeddedSet
from orchestration.data.split import EmbeddedSplit
from orchestration.data.texts import hashed_order

TEST_SEED: Final = 1
TEST_SHARE: Final = 10
"""One row in so many is a test query …"""
TEST_ROWS_MAX: Final = 1_000
"""… but no more than these."""

Rows = NDArray[np.int64]


def load_file(path: Path, queries: Path | None = None, pairs: Path | None = None) -> EmbeddedSet:
    """Return the set that a user's files make.

    With a file of queries, all rows of `path` are learned from and searched, and a .npy of float32 is never read into
    memory as a whole. Without one, up to 1,000 test queries are chosen by id hash and nothing is learned from them:
    rows, or where there are pairs, rows that are the query of one, judged by the documents that belong to them. What
    remains is copied into memory.

    Args:
        path: Embeddings, see `read_embeddings`.
        queries: Embeddings of test queries, with labels where `path` has some.
        pairs: What belongs together: .npy of integers [m, 2], row numbers of (query, document) in `path`; or .parquet
            with columns `query` and `document`, ids of `path`.

    Raises:
        FileInvalid: a file cannot be used, or the files do not fit together.
    """
    rows = read_embeddings(path)
    known = None if pairs is None else read_pairs(pairs, path, rows.ids)
    if queries is not None:
        asking = read_queries(queries, rows, path)
        return EmbeddedSet(path.stem, rows, known, rows, asking, None)
    candidates = np.arange(len(rows.ids)) if known is None else np.unique(known[:, 0])
    held = _held_out(rows.ids, candidates)
    if not len(held):
        raise FileInvalid(pairs or path, f"fewer than {TEST_SHARE} rows ask; give a file of queries")
    left = np.setdiff1d(np.arange(len(rows.ids)), held)
    train = rows.keep(left)
    if known is None:
        return EmbeddedSet(path.stem, train, None, train, rows.keep(held), None)
    searched = np.setdiff1d(left, np.setdiff1d(known[:, 0], known[:, 1]))
    asks, found = (np.isin(known[:, 0], held), np.isin(known[:, 1], held))
    if not (asks & ~found).any() or (asks | found).all():
        raise FileInvalid(
            pairs or path, "test queries leave no pair to judge by, or none to learn from; give a file of queries"
        )
    return EmbeddedSet(
        name=path.stem,
        train=train,
        pairs=np.searchsorted(left, known[~asks & ~found]),
        documents=rows.keep(searched),
        queries=rows.keep(held),
        relevant=np.stack(
            [np.searchsorted(held, known[asks & ~found, 0]), np.searchsorted(searched, known[asks & ~found, 1])], axis=1
        ),
    )


def _held_out(ids: Sequence[str], candidates: Rows) -> Rows:
    order = hashed_order([ids[row] for row in candidates], TEST_SEED)
    return np.sort(candidates[order[: min(TEST_ROWS_MAX, len(candidates) // TEST_SHARE)]])


def read_queries(path: Path, rows: EmbeddedSplit, rows_path: Path) -> EmbeddedSplit:
    """Return a file of test queries, their labels numbered as those of the rows that they ask.

    Raises:
        FileInvalid: As `read_embeddings`; other dimensions, or a label that no row has.
    """
    queries = read_embeddings(path)
    dim, wanted = queries.embeddings.shape[1], rows.embeddings.shape[1]
    if dim != wanted:
        raise FileInvalid(path, f"it has {dim} dimensions, {rows_path} has {wanted}", "embedding")
    if queries.labels is None or rows.labels is None:
        return replace(queries, labels=None, label_names=[])
    if unknown := sorted(set(queries.label_names) - set(rows.label_names)):
        raise FileInvalid(path, f"{rows_path} has no label {unknown[0]!r}", "label")
    numbers = np.array([rows.label_names.index(name) for name in queries.label_names])
    return EmbeddedSplit.of(queries.ids, queries.embeddings, numbers[queries.labels], rows.label_names, queries.texts)


def read_pairs(path: Path, rows_path: Path, ids: Sequence[str]) -> Rows:
    """Return [m, 2] rows of the file with these ids, ascending, without repeats; see `load_file` for the formats.

    Raises:
        FileInvalid: It cannot be read, is empty, or names a row that is not there.
    """
    pairs = _numbered(path, rows_path, len(ids)) if path.suffix == ".npy" else _named(path, rows_path, ids)
    if not len(pairs):
        raise FileInvalid(path, "it has no rows")
    return np.unique(pairs, axis=0)


def _numbered(path: Path, rows_path: Path, count: int) -> Rows:
    array = read_array(path)
    if array.ndim != 2 or array.shape[1] != 2 or not np.issubdtype(array.dtype, np.integer):
        raise FileInvalid(path, f"it holds {array.dtype} {list(array.shape)}, not integers [pairs, 2]")
    wrong = np.argwhere((array < 0) | (array >= count))
    if len(wrong):
        row, column = wrong[0]
        name = ("query", "document")[column]
        raise FileInvalid(path, f"row {row} is {array[row, column]}; {rows_path} has rows 0 … {count - 1}", name)
    return array.astype(np.int64)


def _named(path: Path, rows_path: Path, ids: Sequence[str]) -> Rows:
    if path.suffix != ".parquet":
        raise FileInvalid(path, "pairs come as .npy or .parquet")
    names = ("query", "document")
    table = read_columns(path, names, required=names)
    numbers = {name: row for row, name in enumerate(ids)}
    columns = []
    for name in names:
        values = strings(path, name, table[name])
        rows = [numbers.get(value, -1) for value in values]
        if -1 in rows:
            row = rows.index(-1)
            raise FileInvalid(path, f"row {row} is {values[row]!r}, an id that {rows_path} does not have", name)
        columns.append(rows)
    return np.array(columns, dtype=np.int64).T
