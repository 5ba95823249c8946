"""Training data that do not fit into memory: streamed once into one .npy, which every rank then maps.

One file in one order, whatever it came from, keeps a resumed run equal to an undisturbed one.
"""

import logging
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as parquet
import ray.data
from rich.console import Console

from orchestration.data.catalog import SETS, load
from orchestration.data.files import COLUMNS, FileInvalid, first_line, lists_of_floats, numbered_labels, unique_ids
from orchestration.data.own import read_pairs, read_queries
from orchestration.data.sets import EmbeddedSet
from orchestration.data.split import EmbeddedSplit, first_unusable
from orchestration.train_job import Load

_STREAMED: Final = "streamed.npy"
_ROWS_PER_BATCH: Final = 8_192
_BLOCK_BYTES: Final = 16 << 20
"""Of what Ray Data holds at a time, several of them; its default would fill a small object store."""
_MEMORY_SHARE: Final = 3
"""A .parquet that takes more than one part in so many of the free memory is streamed: it is held twice while read."""


def training_data(
    name: str, queries: Path | None, pairs: Path | None, cache: Path, console: Console | None = None
) -> EmbeddedSet | Load:
    """Return the set behind a name or path, or what streams it: folders, and each .parquet that is too large.

    Args:
        name: As for `orchestration.data.catalog.load`; or a folder of .parquet files, or one that the library datasets
            has saved (`save_to_disk`).
        queries: As for `load`; of what is streamed, every row is learned from with and without them.
        pairs: As for `load`.
        cache: The user's cache folder.
        console: Where progress is drawn; none without.

    Raises:
        DataUnavailable: As `load`.
    """
    path = Path(name)
    if (path.is_dir() and name not in SETS) or (path.suffix == ".parquet" and path.is_file() and _is_large(path)):
        _files(path)  # a folder without any is refused before Ray starts
        return partial(stream_set, path, queries, pairs)
    return load(name, cache, console, queries, pairs)


def stream_set(path: Path, queries: Path | None, pairs: Path | None, folder: Path) -> EmbeddedSet:
    """Write embeddings into `folder`, in memory bounded but for ids and labels; return the set that maps them.

    Args:
        path: A .parquet, a folder of such, or a folder that the library datasets has saved. Columns as for a .parquet
            of `read_embeddings`; texts are not read.
        queries: As for `load_file`; without, nothing asks.
        pairs: As for `load_file`.
        folder: For the .npy.

    Raises:
        FileInvalid: The files cannot be used.
    """
    files = _files(path)
    arrow = files[0].suffix == ".arrow"
    rows = sum(_count_rows(file) for file in files)
    # Closed while Ray still runs: what Ray Data has begun ends with its generator.
    with closing(_arrow_tables(path, files) if arrow else _parquet_tables(path, files)) as tables:
        try:
            split = _write(path, rows, tables, folder / _STREAMED)
        except (OSError, pa.ArrowException) as error:
            raise FileInvalid(path, f"it cannot be read ({first_line(error)})") from error
    known = None if pairs is None else read_pairs(pairs, path, split.ids)
    asking = split.keep(np.arange(0)) if queries is None else read_queries(queries, split, path)
    return EmbeddedSet(path.stem, split, known, split, asking, None)


def _write(path: Path, rows: int, tables: Iterator[pa.Table], target: Path) -> EmbeddedSplit:
    embeddings: np.memmap[Any, Any] | None = None
    start = 0
    others: dict[str, list[pa.Array]] = {"id": [], "label": []}
    for table in tables:
        block = lists_of_floats(path, table["embedding"])
        if embeddings is None:
            shape = (rows, block.shape[1])
            embeddings = np.lib.format.open_memmap(target, mode="w+", dtype=np.float32, shape=shape)
        if block.shape[1] != embeddings.shape[1]:
            wrong = f"row {start} has {block.shape[1]} numbers, row 0 has {embeddings.shape[1]}"
            raise FileInvalid(path, wrong, "embedding")
        if (row := first_unusable(block)) is not None:
            raise FileInvalid(path, f"row {start + row} is zero or not finite", "embedding")
        embeddings[start : start + len(block)] = block
        start += len(block)
        for name in others.keys() & set(table.column_names):
            others[name] += table[name].chunks
    if embeddings is None:
        raise FileInvalid(path, "it has no rows", "embedding")
    embeddings.flush()
    columns = {name: pa.chunked_array(chunks) for name, chunks in others.items() if chunks}
    ids = unique_ids(path, columns["id"]) if "id" in columns else [str(row) for row in range(rows)]
    labels, names = numbered_labels(path, columns["label"]) if "label" in columns else (None, [])
    return EmbeddedSplit.of(ids, np.load(target, mmap_mode="r"), labels, names, [""] * rows)


def _parquet_tables(path: Path, files: Sequence[Path]) -> Generator[pa.Table, None, None]:
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # it tells its plan
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.target_max_block_size = _BLOCK_BYTES
    wanted = _wanted(path, parquet.read_schema(files[0]).names)
    dataset = ray.data.read_parquet(str(path)).select_columns(wanted)
    yield from dataset.iter_batches(batch_format="pyarrow", batch_size=_ROWS_PER_BATCH)


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(path.glob("*.arrow")) or sorted(path.rglob("*.parquet"))
    if not files:
        raise FileInvalid(path, "there is no .parquet and no .arrow in this folder")
    return files


def _count_rows(file: Path) -> int:
    try:
        if file.suffix == ".arrow":
            return sum(batch.num_rows for batch in _arrow_batches([file]))
        return int(parquet.read_metadata(file).num_rows)
    except (OSError, pa.ArrowException) as error:
        raise FileInvalid(file, f"it cannot be read ({first_line(error)})") from error


def _arrow_tables(path: Path, files: Sequence[Path]) -> Generator[pa.Table, None, None]:
    for batch in _arrow_batches(files):
        table = pa.Table.from_batches([batch]).select(_wanted(path, batch.schema.names))
        for start in range(0, len(table), _ROWS_PER_BATCH):
            yield table.slice(start, _ROWS_PER_BATCH)


def _arrow_batches(files: Sequence[Path]) -> Iterator[pa.RecordBatch]:
    """Yield what the library datasets has saved: Arrow streams, which are read from a memory map without a copy."""
    for file in files:
        with pa.memory_map(str(file)) as mapped, pa.ipc.open_stream(mapped) as stream:
            yield from stream


def _wanted(path: Path, there: Sequence[str]) -> list[str]:
    if "embedding" not in there:
        raise FileInvalid(path, f"it is missing; there are: {', '.join(there) or 'none'}", "embedding")
    return [name for name in COLUMNS if name in there and name != "text"]


def _is_large(path: Path) -> bool:
    try:
        metadata = parquet.read_metadata(path)
    except (OSError, pa.ArrowException):
        return False  # whoever reads it says what is wrong
    size = sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))
    return bool(size > psutil.virtual_memory().available / _MEMORY_SHARE)
