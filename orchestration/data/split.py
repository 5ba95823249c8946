"""An embedded split, in memory and as a folder of the cache.

The folder holds embeddings.npy (float16 [n, dim]), rows.parquet (id, text, label) and split.json (label names,
digest, how it was made).
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
from numpy.typing import NDArray

from orchestration.data.cache import DataUnavailable
from orchestration.data.texts import LabelledTexts

FORMAT: Final = 1
"""Of the folder; goes into its name, so that another format is another folder."""
BLOCK_ROWS: Final = 16_384
"""Rows looked at at once, so that a memory-mapped file never has to be in memory as a whole."""


@dataclass(frozen=True, eq=False)
class EmbeddedSplit:
    """n embedded texts or pictures; all columns have the same order."""

    ids: list[str]
    embeddings: NDArray[np.float32]
    """[n, dim], finite, no row is zero. Those of the public sets were rounded to float16 once; a user's .npy of float32
    is a read-only memory map."""
    labels: NDArray[np.int64] | None
    """[n], positions in label_names; None where the set has no labels."""
    label_names: list[str]
    texts: list[str]
    """[n]; empty texts where only embeddings are known."""
    digest: str
    """See `data_digest`."""

    @classmethod
    def of(
        cls,
        ids: list[str],
        embeddings: NDArray[np.float32],
        labels: NDArray[np.int64] | None,
        label_names: list[str],
        texts: list[str],
    ) -> Self:
        """Make a split with the digest of its columns."""
        return cls(ids, embeddings, labels, label_names, texts, data_digest(ids, embeddings, labels))

    def keep(self, rows: NDArray[np.int64]) -> Self:
        """Return these rows, in this order, copied into memory; label names stay."""
        return self.of(
            [self.ids[row] for row in rows],
            self.embeddings[rows],
            None if self.labels is None else self.labels[rows],
            self.label_names,
            [self.texts[row] for row in rows],
        )


def data_digest(ids: Sequence[str], embeddings: NDArray[np.floating[Any]], labels: NDArray[np.int64] | None) -> str:
    """Return the SHA-256 that identifies training or test data: over ids, embedding bytes and labels, in order."""
    digest = hashlib.sha256(json.dumps([list(ids), embeddings.shape, labels is not None]).encode())
    for block in blocks(embeddings):
        digest.update(embeddings[block].astype("<f4").tobytes())
    if labels is not None:
        digest.update(labels.astype("<i8").tobytes())
    return digest.hexdigest()


def blocks(rows: NDArray[Any]) -> Iterator[slice]:
    """Yield consecutive slices of BLOCK_ROWS rows that cover all of them."""
    for start in range(0, len(rows), BLOCK_ROWS):
        yield slice(start, start + BLOCK_ROWS)


def first_unusable(embeddings: NDArray[np.floating[Any]]) -> int | None:
    """Return the first row that no adapter could use, because it is zero or not finite, if there is one."""
    for block in blocks(embeddings):
        norms = np.linalg.norm(embeddings[block].astype(np.float32), axis=1)
        unusable = np.flatnonzero(~(np.isfinite(norms) & (norms > 0)))
        if len(unusable):
            return int(block.start + unusable[0])
    return None


def concatenated(first: EmbeddedSplit, second: EmbeddedSplit) -> EmbeddedSplit:
    """Return the rows of both, neither of which has labels."""
    embeddings = np.concatenate([first.embeddings, second.embeddings])
    return EmbeddedSplit.of(first.ids + second.ids, embeddings, None, [], first.texts + second.texts)


def save_split(
    folder: Path, texts: LabelledTexts, embeddings: NDArray[np.float16], provenance: Mapping[str, Any]
) -> None:
    """Write a split into an existing folder.

    Raises:
        DataUnavailable: an embedding is zero or not finite, which no adapter could use.
    """
    if (row := first_unusable(embeddings)) is not None:
        raise DataUnavailable(f"the embedding of {texts.ids[row]} is zero or not finite")
    labels = None if texts.labels is None else np.array(texts.labels, dtype=np.int64)
    columns = {"id": pa.array(texts.ids), "text": pa.array(texts.texts)}
    if labels is not None:
        columns["label"] = pa.array(labels)
    np.save(folder / "embeddings.npy", embeddings)
    parquet.write_table(pa.table(columns), folder / "rows.parquet", compression="zstd")
    description = {
        "digest": data_digest(texts.ids, embeddings, labels),
        "label_names": texts.label_names,
        "provenance": dict(provenance),
    }
    (folder / "split.json").write_text(json.dumps(description, indent=2) + "\n")


def load_split(folder: Path) -> EmbeddedSplit:
    """Read a split back.

    Raises:
        DataUnavailable: files are missing or do not match the digest.
    """
    try:
        description = json.loads((folder / "split.json").read_text())
        known, label_names = description["digest"], description["label_names"]
        table = parquet.read_table(folder / "rows.parquet")
        embeddings = np.load(folder / "embeddings.npy", allow_pickle=False).astype(np.float32)
        ids, texts = table["id"].to_pylist(), table["text"].to_pylist()
    except (OSError, ValueError, LookupError, TypeError, pa.ArrowException) as error:
        raise DataUnavailable(f"{folder} cannot be read ({error!r}); delete it and run again") from error
    labels = table["label"].to_numpy() if "label" in table.column_names else None
    if data_digest(ids, embeddings, labels) != known:
        raise DataUnavailable(f"{folder} is damaged (its digest differs); delete it and run again")
    return EmbeddedSplit(ids, embeddings, labels, label_names, texts, known)
