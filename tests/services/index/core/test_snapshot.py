"""Snapshots: whole or refused."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.index.core import snapshot
from services.index.core.errors import CorruptSnapshot, SnapshotExists, UnsupportedSnapshot
from services.index.core.index import SparseIndex
from services.index.core.where import And, Eq, Range
from tests.services.index.core.data import codes, single


@pytest.fixture
def index() -> SparseIndex:
    """Return an index with a sealed segment, a memtable, deletions and fields."""
    rng = np.random.default_rng(0)
    batch = codes(rng, "skewed", 9_000, 64, 8)
    records: list[Any] = [{"year": row, "tags": [f"t{row % 5}", "ü"]} for row in range(9_000)]
    names = [f"doc-{row}" for row in range(9_000)]
    index = SparseIndex(64, 8, {"year": "int", "tags": "keywords"})
    index.upsert(names[:8_500], batch.latents[:8_500], batch.weights[:8_500], records[:8_500])
    index.upsert(names[8_500:], batch.latents[8_500:], batch.weights[8_500:], records[8_500:], [7] * 500)
    index.delete(names[::11])
    return index


def answers(index: SparseIndex) -> Any:
    """Return everything about an index that a caller can see."""
    queries = codes(np.random.default_rng(1), "skewed", 5, 64, 8)
    where = And((Eq("tags", "t2"), Range("year", gte=100)))
    return (
        index.ids(),
        index.search(queries.latents, queries.weights, 50),
        index.search(queries.latents, queries.weights, 50, k=2, where=where),
        index.search(queries.latents, queries.weights, 50, partitions={7}),
        (index.hidden_dim, index.k_max, index.fields, index.statistics().latent_usage.tolist()),
    )


def test_a_loaded_index_answers_the_same_and_goes_on(index: SparseIndex, tmp_path: Path) -> None:
    """A restarted index server would give other answers, or could not be written to."""
    index.save(tmp_path / "snapshot")
    loaded = SparseIndex.load(tmp_path / "snapshot")
    assert answers(loaded) == answers(index)
    for each in (index, loaded):
        each.delete(["doc-1", "doc-8600"])
        each.upsert(["doc-2", "new"], np.array([[1], [2]]), np.ones((2, 1), np.float32))
    assert answers(loaded) == answers(index)


def test_an_empty_index_survives(tmp_path: Path) -> None:
    """The snapshot of a new collection would be refused."""
    SparseIndex(8, 4, {"year": "int"}).save(tmp_path / "new" / "snapshot")
    loaded = SparseIndex.load(tmp_path / "new" / "snapshot")
    assert (len(loaded), loaded.hidden_dim, loaded.k_max, loaded.fields) == (0, 8, 4, {"year": "int"})


def test_stray_files_are_ignored(index: SparseIndex, tmp_path: Path) -> None:
    """A file left by a backup tool would make the snapshot unusable."""
    index.save(tmp_path / "snapshot")
    (tmp_path / "snapshot" / "0099-latents.npy").write_bytes(b"stray")
    assert answers(SparseIndex.load(tmp_path / "snapshot")) == answers(index)


def test_nothing_is_overwritten(index: SparseIndex, tmp_path: Path) -> None:
    """The only good snapshot would be lost to a second one that fails half way."""
    (tmp_path / "snapshot").mkdir()
    with pytest.raises(SnapshotExists, match="snapshots are never overwritten"):
        index.save(tmp_path / "snapshot")
    assert list(tmp_path.iterdir()) == [tmp_path / "snapshot"]


def test_a_failed_save_leaves_nothing(index: SparseIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk would leave half a snapshot that looks like one, or fill up further at every attempt."""

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        index.save(tmp_path / "snapshot")
    assert list(tmp_path.iterdir()) == []


def files(folder: Path) -> list[Path]:
    """Return a snapshot's files by name."""
    return sorted(folder.iterdir())


def test_every_changed_truncated_or_missing_file_is_refused(index: SparseIndex, tmp_path: Path) -> None:
    """A damaged disk would turn into silently wrong answers."""
    folder = tmp_path / "snapshot"
    index.save(folder)
    names = [file.name for file in files(folder)]
    assert len(names) == 51  # 25 arrays in each of two segments, and the manifest
    for file in files(folder):
        content = file.read_bytes()
        middle = len(content) // 2
        changed = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        for damaged in (changed, content[:-1], content + b"\x00", b""):
            file.write_bytes(damaged)
            with pytest.raises(CorruptSnapshot, match=file.name):
                SparseIndex.load(folder)
        file.unlink()
        with pytest.raises(CorruptSnapshot, match=file.name):
            SparseIndex.load(folder)
        file.write_bytes(content)
    assert answers(SparseIndex.load(folder)) == answers(index)


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    """An old server would misread what a newer one wrote."""
    index = SparseIndex(8, 4)
    index.upsert(["a"], **single([1], [1.0]))
    index.save(tmp_path / "snapshot")
    manifest = tmp_path / "snapshot" / "manifest.json"
    body = json.loads(manifest.read_text())["body"]
    body["format_version"] = snapshot.FORMAT_VERSION + 1
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    manifest.write_text(json.dumps({"body": body, "sha256": digest}))
    with pytest.raises(UnsupportedSnapshot, match="has format_version 2; this program reads up to 1"):
        SparseIndex.load(tmp_path / "snapshot")
