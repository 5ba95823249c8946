"""Snapshots of one collection in one folder, written so that a crash at any point leaves the older ones whole.

    <number>.json            manifest: what the snapshot is of, and where in the logs; names the folders
    <number>-g<generation>/  the engine of a generation (services.index.core.snapshot)

A snapshot exists when its manifest does, which is written last and renamed into place. Everything else in the folder is
left over from a crash or from a snapshot that was removed, is never read, and goes with the next `tidy`.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from services.index.collection import Moment, Restored
from services.index.core.errors import CorruptSnapshot, UnsupportedSnapshot
from services.index.core.index import SparseIndex
from services.index.core.stored import sync, write_durably
from services.index.partition import PartitionState
from services.index.store.catalog import CollectionRecord
from services.index.store.tail import PartitionTail

FORMAT: Final = "csr-index-server"
FORMAT_VERSION: Final = 1
KEPT: Final = 2
"""Snapshots of a collection that are kept: the second is for the case that a disk damages the first."""


class UnusableSnapshot(Exception):
    """A snapshot that is damaged, of another state of the collection, or from a newer release; the text says which."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a snapshot says of itself.

    Attributes:
        created: When the moment was that it shows, in seconds since 1970.
        generations: By number: fingerprint of the model, and SHA-256 of the engine's own manifest.
        states: By partition.
    """

    created: float
    collection_id: str
    generations: Mapping[int, tuple[str, str]]
    states: Mapping[int, PartitionState]


def save(folder: Path, moment: Moment, created: float) -> None:
    """Write one more snapshot, durably.

    Raises:
        OSError: the disk is full, or refuses.
        CorruptSnapshot: a file that an engine was loaded from was altered meanwhile.
    """
    folder.mkdir(parents=True, exist_ok=True)
    number = 1 + max(map(_number, folder.iterdir()), default=0)
    generations = {}
    for generation, index in moment.generations.items():
        path = _engine(folder, number, generation)
        index.engine.save(path, at=moment.published[generation].state)
        generations[str(generation)] = {
            "fingerprint": index.record.fingerprint,
            "manifest_sha256": _sha256(path / "manifest.json"),
        }
    body = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "created": created,
        "collection_id": moment.record.collection_id,
        "generations": generations,
        "partitions": {str(partition): _described(state) for partition, state in moment.states.items()},
    }
    manifest = {"body": body, "sha256": _digest(body)}
    unfinished = folder / f"{number}.json.unfinished"
    write_durably(unfinished, json.dumps(manifest, indent=1).encode())
    unfinished.rename(folder / f"{number}.json")
    sync(folder)


def numbers(folder: Path) -> list[int]:
    """Return the numbers of the snapshots, the newest first."""
    return sorted((_number(path) for path in folder.glob("*.json") if _number(path)), reverse=True)


def read_manifest(folder: Path, number: int) -> Manifest:
    """Return what a snapshot says of itself.

    Raises:
        UnusableSnapshot: it is damaged, or from a newer release.
    """
    path = folder / f"{number}.json"
    try:
        manifest = json.loads(path.read_bytes())
        body = manifest["body"]
        if manifest["sha256"] != _digest(body) or body["format"] != FORMAT:
            raise UnusableSnapshot(f"{path} was altered")
        if body["format_version"] > FORMAT_VERSION:
            raise UnusableSnapshot(f"{path} has format {body['format_version']}, this release reads {FORMAT_VERSION}")
        return Manifest(
            body["created"],
            body["collection_id"],
            {int(n): (given["fingerprint"], given["manifest_sha256"]) for n, given in body["generations"].items()},
            {int(n): _state(body["collection_id"], int(n), given) for n, given in body["partitions"].items()},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnusableSnapshot(f"{path} is missing or unreadable: {error!r}") from None


def load(folder: Path, number: int, manifest: Manifest, record: CollectionRecord) -> Restored:
    """Return the engines of a snapshot, every byte of them verified.

    Raises:
        UnusableSnapshot: it is damaged, or lacks a generation that is live now.
    """
    if manifest.collection_id != record.collection_id:
        raise UnusableSnapshot(f"snapshot {number} is of collection {manifest.collection_id}")
    engines = {}
    for live in record.generations:
        fingerprint, sha256 = manifest.generations.get(live.generation, ("", ""))
        if fingerprint != live.fingerprint:
            raise UnusableSnapshot(f"snapshot {number} does not have generation {live.generation} as it is now")
        path = _engine(folder, number, live.generation)
        try:
            if _sha256(path / "manifest.json") != sha256:
                raise UnusableSnapshot(f"{path} is not what was saved there")
            engine = SparseIndex.load(path)
        except (OSError, CorruptSnapshot, UnsupportedSnapshot) as error:
            raise UnusableSnapshot(str(error)) from None
        if (engine.hidden_dim, engine.k_max, engine.fields) != (live.hidden_dim, record.k_max, dict(record.fields)):
            raise UnusableSnapshot(f"{path} has other dimensions or fields than the collection")
        engines[live.generation] = engine
    return Restored(engines, manifest.states)


def tidy(folder: Path) -> None:
    """Remove all but the newest snapshots, and whatever is left over beside them."""
    kept = set(numbers(folder)[:KEPT])
    leaving = [path for path in folder.iterdir() if _number(path) not in kept or path.suffix == ".unfinished"]
    for path in sorted(leaving, key=lambda path: path.suffix != ".json"):  # manifests first: see above
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _engine(folder: Path, number: int, generation: int) -> Path:
    return folder / f"{number}-g{generation}"


def _number(path: Path) -> int:
    """Return the number of the snapshot that a file is of; 0 for what is none of ours."""
    digits = path.name.partition(".")[0].partition("-g")[0]
    return int(digits) if digits.isascii() and digits.isdecimal() else 0


def _described(state: PartitionState) -> dict[str, Any]:
    tail = state.tail
    return {
        "lsn": tail.lsn,
        "chain": tail.chain.hex(),
        "documents": state.documents,
        "digest": state.digest.hex(),
    }


def _state(collection_id: str, partition: int, given: Mapping[str, Any]) -> PartitionState:
    tail = PartitionTail(collection_id, partition, int(given["lsn"]), bytes.fromhex(given["chain"]))
    return PartitionState(tail, int(given["documents"]), bytes.fromhex(given["digest"]))


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
