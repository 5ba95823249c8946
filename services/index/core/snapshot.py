"""Snapshots: one folder of arrays and a manifest that proves them whole.

`manifest.json` holds the body (format version, dimensions, fields, counts, and size and SHA-256 of every file) and
the SHA-256 of the body. A folder appears under its name complete or not at all; files that the manifest does not
name are ignored.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from services.index.core import bits, segment
from services.index.core.columns import Column, KeywordColumn, ScalarColumn
from services.index.core.errors import CorruptSnapshot, SnapshotExists, UnsupportedSnapshot
from services.index.core.fields import Declared, declare
from services.index.core.ragged import Ragged, ragged
from services.index.core.rows import Rows
from services.index.core.segment import Part

FORMAT: Final = "csr-index"
FORMAT_VERSION: Final = 1
_MANIFEST: Final = "manifest.json"
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a snapshot restores."""

    hidden_dim: int
    k_max: int
    declared: Declared
    parts: tuple[Part, ...]


def save(path: Path, snapshot: Snapshot) -> None:
    """Write a snapshot durably.

    Raises:
        SnapshotExists: the path is taken.
    """
    if path.exists():
        raise SnapshotExists(f"path {path} exists already; snapshots are never overwritten")
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        segments = []
        for number, part in enumerate(snapshot.parts):
            arrays = _arrays(part, snapshot.declared)
            files = {name: _write_array(folder, f"{number:04d}-{name}.npy", arrays[name]) for name in arrays}
            segments.append({"rows": len(part.segment), "documents": part.documents, "files": files})
        body = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "hidden_dim": snapshot.hidden_dim,
            "k_max": snapshot.k_max,
            "fields": dict(snapshot.declared),
            "segments": segments,
        }
        manifest = {"body": body, "sha256": _digest(body)}
        _write(folder / _MANIFEST, json.dumps(manifest, indent=1).encode())
        _sync(folder)
        folder.rename(path)
        _sync(path.parent)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def load(path: Path) -> Snapshot:
    """Read a snapshot and verify every byte of it.

    Raises:
        CorruptSnapshot: files are missing, truncated or altered.
        UnsupportedSnapshot: written in a newer format.
    """
    body = _read_manifest(path)
    declared = declare(body["fields"])
    parts = []
    for number, entry in enumerate(body["segments"]):
        arrays = {name: _read_array(path, f"{number:04d}-{name}.npy", entry["files"][name]) for name in entry["files"]}
        parts.append(_part(arrays, declared, entry["documents"]))
    return Snapshot(body["hidden_dim"], body["k_max"], declared, tuple(parts))


def _arrays(part: Part, declared: Declared) -> Arrays:
    rows = part.segment.rows
    arrays: Arrays = {
        "alive": part.alive,
        "latents": rows.latents,
        "weights": rows.weights,
        "partitions": rows.partitions,
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


def _part(arrays: Arrays, declared: Declared, documents: int) -> Part:
    rows = Rows(
        arrays["latents"],
        arrays["weights"],
        Ragged(arrays["ids"], arrays["id-offsets"]),
        arrays["partitions"],
        {name: _column(arrays, f"field{number}-") for number, name in enumerate(declared)},
    )
    built = segment.assemble(rows, arrays)
    if documents != bits.count(arrays["alive"]):
        raise CorruptSnapshot(f"the manifest counts {documents} documents, not {bits.count(arrays['alive'])}")
    return Part(built, arrays["alive"], documents)


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
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptSnapshot(f"{path / _MANIFEST} is missing or unreadable: {error}") from error
    if body.get("format") != FORMAT or digest != _digest(body):
        raise CorruptSnapshot(f"{path / _MANIFEST} was altered")
    if version > FORMAT_VERSION:
        raise UnsupportedSnapshot(f"{path} has format_version {version}; this program reads up to {FORMAT_VERSION}")
    return dict(body)


def _write_array(folder: Path, name: str, array: NDArray[Any]) -> Mapping[str, Any]:
    with (folder / name).open("wb") as file:
        np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())
    return {"bytes": (folder / name).stat().st_size, "sha256": _file_digest(folder / name)}


def _read_array(folder: Path, name: str, recorded: Mapping[str, Any]) -> NDArray[Any]:
    file = folder / name
    try:
        size, digest = file.stat().st_size, _file_digest(file)
    except OSError as error:
        raise CorruptSnapshot(f"{file} is missing or unreadable: {error}") from error
    if size != recorded["bytes"]:
        raise CorruptSnapshot(f"{file} has {size} bytes, the manifest says {recorded['bytes']}")
    if digest != recorded["sha256"]:
        raise CorruptSnapshot(f"{file} was altered: its SHA-256 is not the manifest's")
    array: NDArray[Any] = np.load(file, allow_pickle=False)
    return array


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
