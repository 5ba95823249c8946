"""Snapshots: one folder of arrays and a manifest that proves them whole.

`manifest.json` holds the body (format version, dimensions, fields, positions, counts, and size and SHA-256 of every
file) and the SHA-256 of the body. A folder appears under its name complete or not at all; files that the manifest
does not name are ignored. A program that is killed while it saves leaves a hidden folder `.<name>.*` beside the path,
which nothing reads.

Segments never change, so snapshots that hold the same one share its files as hard links. Change no file of a snapshot
in place: it may be part of others, and of an index that is being searched.
"""

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from services.index.core import bits, segment
from services.index.core.bits import Words
from services.index.core.code import levels
from services.index.core.columns import Column, KeywordColumn, ScalarColumn
from services.index.core.errors import CorruptSnapshot, SnapshotExists, UnsupportedSnapshot
from services.index.core.fields import Declared, declare
from services.index.core.ragged import Ragged, ragged
from services.index.core.rows import Rows
from services.index.core.segment import Part
from services.index.core.stored import MISSING, StoredArrays, StoredFile, sync, write_durably

FORMAT: Final = "csr-index"
FORMAT_VERSION: Final = 3
"""2 has positions, and derives other arrays from the rows than 1; 3 has versions."""
_DERIVED_SINCE: Final = 2
"""The first format that derives the same arrays as this one."""
_MANIFEST: Final = "manifest.json"
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a snapshot restores."""

    hidden_dim: int
    k_max: int
    declared: Declared
    lsns: Mapping[int, int]
    """Position in the log that the documents are at, by partition."""
    parts: tuple[Part, ...]


def save(path: Path, snapshot: Snapshot, known: StoredArrays) -> None:
    """Write a snapshot durably, linking the files of arrays that are known to lie in one.

    Raises:
        SnapshotExists: the path is taken.
        CorruptSnapshot: an array is mapped from a file that was altered.
    """
    _require_free(path)
    created = [parent for parent in path.parents if not parent.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    folder.mkdir()  # not one of tempfile's, which nobody else may read, backups included
    written: list[tuple[NDArray[Any], StoredFile]] = []
    try:
        segments = []
        for number, part in enumerate(snapshot.parts):
            files = {}
            for name, array in _arrays(part, snapshot.declared).items():
                file = known.write(folder / f"{number:04d}-{name}.npy", array)
                files[name] = {"bytes": file.bytes, "sha256": file.sha256}
                written.append((array, file))
            segments.append({"rows": len(part.segment), "documents": part.documents, "files": files})
        body = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "hidden_dim": snapshot.hidden_dim,
            "k_max": snapshot.k_max,
            "fields": dict(snapshot.declared),
            "lsns": {str(partition): int(lsn) for partition, lsn in snapshot.lsns.items()},
            "segments": segments,
        }
        manifest = {"body": body, "sha256": _digest(body)}
        write_durably(folder / _MANIFEST, json.dumps(manifest, indent=1).encode())
        sync(folder)
        try:
            folder.rename(path)
        except OSError:
            _require_free(path)  # another save may have been faster
            raise
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    for array, file in written:
        known.remember(array, file.moved_to(path))
    for parent in (path, *created):
        sync(parent.parent)


def load(path: Path, known: StoredArrays) -> Snapshot:
    """Map a snapshot into memory and verify every byte of it.

    Raises:
        CorruptSnapshot: files are missing, truncated or altered.
        UnsupportedSnapshot: written in a newer format.
    """
    body = _read_manifest(path)
    declared = declare(body["fields"])
    parts = []
    for number, entry in enumerate(body["segments"]):
        arrays = {
            name: known.read(path / f"{number:04d}-{name}.npy", file["bytes"], file["sha256"])
            for name, file in entry["files"].items()
        }
        if entry["documents"] != bits.count(arrays["alive"]):
            raise CorruptSnapshot(
                f"{path / _MANIFEST} counts {entry['documents']} documents, not {bits.count(arrays['alive'])}"
            )
        rows = _rows(arrays, declared)
        if body["format_version"] >= _DERIVED_SINCE:
            parts.append(Part(segment.assemble(rows, arrays), arrays["alive"], entry["documents"]))
        else:
            parts.append(_rebuilt(rows, arrays["alive"], body["hidden_dim"], body["k_max"]))
    lsns = {int(partition): lsn for partition, lsn in body.get("lsns", {}).items()}
    return Snapshot(body["hidden_dim"], body["k_max"], declared, lsns, tuple(parts))


def _require_free(path: Path) -> None:
    if os.path.lexists(path):
        raise SnapshotExists(f"path {path} exists already; snapshots are never overwritten")


def _arrays(part: Part, declared: Declared) -> Arrays:
    rows = part.segment.rows
    arrays: Arrays = {
        "alive": part.alive,
        "latents": rows.latents,
        "weights": rows.weights,
        "partitions": rows.partitions,
        "versions": rows.versions,
        "ids": rows.ids.flat,
        "id-offsets": rows.ids.offsets,
    }
    arrays |= part.segment.derived()
    for number, name in enumerate(declared):
        column = rows.columns[name]
        if isinstance(column, ScalarColumn):
            stored: Arrays = {"values": column.values, "present": column.present}
        else:
            terms = [term.encode() for term in list(column.terms)]
            text = ragged([len(term) for term in terms], np.frombuffer(b"".join(terms), np.uint8))
            stored = {"numbers": column.numbers.flat, "number-offsets": column.numbers.offsets}
            stored |= {"terms": text.flat, "term-offsets": text.offsets}
        arrays |= {f"field{number}-{key}": array for key, array in stored.items()}
    return arrays


def _rebuilt(rows: Rows, alive: Words, hidden_dim: int, k_max: int) -> Part:
    """Return a part of a format whose documents are as today's, but what is derived from them is not."""
    built = segment.build(rows.take(bits.rows_of(alive, len(rows))), hidden_dim, levels(k_max))
    return segment.whole(built)


def _rows(arrays: Arrays, declared: Declared) -> Rows:
    return Rows(
        arrays["latents"],
        arrays["weights"],
        Ragged(arrays["ids"], arrays["id-offsets"]),
        arrays["partitions"],
        arrays.get("versions", np.zeros(len(arrays["partitions"]), np.uint64)),
        {name: _column(arrays, f"field{number}-") for number, name in enumerate(declared)},
    )


def _column(arrays: Arrays, prefix: str) -> Column:
    if f"{prefix}values" in arrays:
        return ScalarColumn(arrays[f"{prefix}values"], arrays[f"{prefix}present"])
    text = Ragged(arrays[f"{prefix}terms"], arrays[f"{prefix}term-offsets"])
    terms = {text.row(number).tobytes().decode(): number for number in range(len(text))}
    return KeywordColumn(terms, Ragged(arrays[f"{prefix}numbers"], arrays[f"{prefix}number-offsets"]))


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((path / _MANIFEST).read_bytes())
        body, digest = manifest["body"], manifest["sha256"]
        version = body["format_version"]
    except (*MISSING, ValueError, KeyError, TypeError) as error:
        raise CorruptSnapshot(f"{path / _MANIFEST} is missing or unreadable: {error}") from error
    if body.get("format") != FORMAT or type(version) is not int or digest != _digest(body):
        raise CorruptSnapshot(f"{path / _MANIFEST} was altered")
    if version > FORMAT_VERSION:
        raise UnsupportedSnapshot(f"{path} has format_version {version}; this program reads up to {FORMAT_VERSION}")
    return dict(body)


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
