"""The exact sparse index, from the outside."""

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike

from services.index.core import arguments, code, columns, snapshot
from services.index.core.code import Codes
from services.index.core.errors import InvalidIndex, InvalidRows
from services.index.core.fields import Record, check_records, declare
from services.index.core.ids import pack_ids
from services.index.core.limits import HIDDEN_DIM_MAX, K_MAX
from services.index.core.reading import Reader
from services.index.core.rows import Rows
from services.index.core.stored import StoredArrays
from services.index.core.writer import State, Writer


class SparseIndex(Reader):
    """Documents by code, searched exactly while they are being written.

    Score(q, d) = Σ q̂·d̂ / √(Σq̂² · Σd̂²) over the first k_query latents of the query and the first k_docs of the
    document: integer sums, one float64 square root, one division, so the same bits everywhere; it differs from the
    float32 cosine by at most √k_max / 65535. Hits come by score descending, then id ascending (as UTF-8 bytes), and
    have a score > 0. Empty codes are stored and counted, and never found.

    Any number of threads may search while one writes; further writers wait. A write that returned is seen by every
    later search, and a search sees all of a batch or nothing. Nothing changes when a call raises.

    Args:
        hidden_dim: Number of latents, 1..65,536.
        k_max: Most active latents of a document, 1..256.
        fields: Declared fields, name to "keyword", "int", "float", "bool" or "keywords" (a list).

    Raises:
        InvalidIndex: an argument out of range.
    """

    def __init__(self, hidden_dim: int, k_max: int, fields: Mapping[str, str] | None = None) -> None:
        arguments.require_int("hidden_dim", hidden_dim, 1, HIDDEN_DIM_MAX, InvalidIndex)
        arguments.require_int("k_max", k_max, 1, K_MAX, InvalidIndex)
        self.hidden_dim, self.k_max = int(hidden_dim), int(k_max)
        self.fields = declare(fields)
        self._levels = code.levels(self.k_max)
        self._writer = Writer(self.hidden_dim, self.k_max, self.fields)
        self._stored = StoredArrays()
        self.lsns: Mapping[int, int] = {}
        """Positions in the log, by partition, that came with the snapshot; writes do not change them."""

    def upsert(
        self,
        ids: Sequence[str],
        latents: ArrayLike,
        weights: ArrayLike,
        fields: Sequence[Record | None] | None = None,
        partitions: ArrayLike | None = None,
        versions: ArrayLike | None = None,
    ) -> None:
        """Add documents, or replace those with the same ids, all in one step.

        Args:
            ids: n distinct ids, 1..128 bytes of UTF-8 each.
            latents: Integer [n, width]; ignored where the weight is 0.
            weights: float32 [n, width], descending, so zeros only at the end; at most k_max > 0; of any scale.
            fields: n records {field: value}, or None for no values.
            partitions: Integers [n], 0..65,535; 0 by default.
            versions: Integers [n], 0..2^63 - 1, that mean nothing to the index; 0 by default.

        Raises:
            InvalidId, InvalidCode, InvalidRows, InvalidField, UnknownField.
        """
        codes = code.quantise(latents, weights, hidden_dim=self.hidden_dim, active_max=self.k_max)
        self._upsert(ids, codes, fields, partitions, versions)

    def upsert_quantised(
        self,
        ids: Sequence[str],
        lengths: ArrayLike,
        latents: ArrayLike,
        weights: ArrayLike,
        fields: Sequence[Record | None] | None = None,
        partitions: ArrayLike | None = None,
        versions: ArrayLike | None = None,
    ) -> None:
        """As `upsert`, from stored codes in flat arrays (`code.to_ragged`).

        Args:
            ids: As `upsert`; so are fields, partitions and versions.
            lengths: Integers [n], 0..k_max.
            latents: Integers [sum of lengths].
            weights: uint16 [sum of lengths], ŵ: descending within each code, never 0.

        Raises:
            InvalidId, InvalidCode, InvalidRows, InvalidField, UnknownField.
        """
        codes = code.from_ragged(lengths, latents, weights, hidden_dim=self.hidden_dim, active_max=self.k_max)
        self._upsert(ids, codes, fields, partitions, versions)

    def delete(self, ids: Sequence[str]) -> int:
        """Remove documents in one step and return how many there were; unknown ids are no error.

        Raises:
            InvalidId: an id that no document can have, or given twice.
        """
        return self._writer.apply(pack_ids(ids))

    def drop_partitions(self, partitions: Collection[int]) -> int:
        """Remove all documents of these partitions in one step and return how many there were.

        Raises:
            InvalidRows: not a collection of 0..65,535.
        """
        return self._writer.drop_partitions(arguments.some_partitions(partitions, InvalidRows))

    def save(
        self, path: str | os.PathLike[str], lsns: Mapping[int, int] | None = None, at: State | None = None
    ) -> None:
        """Write a snapshot of one moment into a new folder, complete or not at all; writes go on meanwhile.

        Segments that an earlier snapshot on the same disk holds are not written again but hard-linked.

        Args:
            path: The folder.
            lsns: Position in the log that the moment is at, 0 or more, by partition; kept for whoever loads it.
            at: A state of this index to write instead of the latest.

        Raises:
            InvalidPositions, InvalidState.
            SnapshotExists: the path is taken.
            CorruptSnapshot: a file that the index was loaded from was altered meanwhile; nothing is saved.
        """
        positions = arguments.positions(lsns)
        parts = self._writer.sealed(self._moment(at))
        saved = snapshot.Snapshot(self.hidden_dim, self.k_max, self.fields, positions, parts)
        snapshot.save(Path(path), saved, self._stored)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "SparseIndex":
        """Map a snapshot into memory, every byte verified; its `lsns` are those that were saved.

        The files must stay as they are while the index lives; they may be removed, though.

        Raises:
            CorruptSnapshot: files are missing, truncated or altered.
            UnsupportedSnapshot: written in a newer format.
        """
        stored = StoredArrays()
        restored = snapshot.load(Path(path), stored)
        index = cls(restored.hidden_dim, restored.k_max, restored.declared)
        index._writer = Writer(index.hidden_dim, index.k_max, index.fields, restored.parts)
        index._stored = stored
        index.lsns = restored.lsns
        return index

    def settle(self) -> None:
        """Merge until no segments are to be merged, as long as nobody writes; a merge that failed is tried again.

        Raises:
            Exception: what made a merge fail. Nothing is lost: the index answers and can be written to as before.
        """
        self._writer.settle()

    def _upsert(
        self,
        names: Sequence[str],
        codes: Codes,
        fields: Any,
        partitions: ArrayLike | None,
        versions: ArrayLike | None,
    ) -> None:
        packed = pack_ids(names)
        count = len(codes.latents)
        if len(packed) != count:
            raise InvalidRows(f"ids must be one for each of {count} codes, not {len(packed)}")
        records = check_records(self.fields, fields, count)
        wide = code.with_width(codes, self.k_max)
        owners, numbers = arguments.partition_of_rows(partitions, count), arguments.version_of_rows(versions, count)
        self._writer.apply(packed, Rows(*wide, packed, owners, numbers, columns.build(self.fields, records)))
