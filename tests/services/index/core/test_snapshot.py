"""Snapshots: whole or refused."""

import hashlib
import json
import mmap
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.index.core import snapshot, stored, writer
from services.index.core.errors import CorruptSnapshot, InvalidPositions, SnapshotExists, UnsupportedSnapshot
from services.index.core.index import SparseIndex
from services.index.core.where import And, Eq, Range
from tests.services.index.core import oracle
from tests.services.index.core.data import codes, held, single


@pytest.fixture
def index() -> SparseIndex:
    """Return an index with a sealed segment, a memtable, deletions and fields."""
    rng = np.random.default_rng(0)
    batch = codes(rng, "skewed", 9_000, 64, 8)
    records: list[Any] = [{"year": row, "tags": [f"t{row % 5}", "ü"]} for row in range(9_000)]
    names = [f"doc-{row}" for row in range(9_000)]
    index = SparseIndex(64, 8, {"year": "int", "tags": "keywords"})
    index.upsert(names[:8_500], batch.latents[:8_500], batch.weights[:8_500], records[:8_500])
    index.upsert(names[8_500:], batch.latents[8_500:], batch.weights[8_500:], records[8_500:], [7] * 500, range(500))
    index.delete(names[::11])
    return index


def answers(index: SparseIndex) -> Any:
    """Return everything about an index that a caller can see."""
    queries = codes(np.random.default_rng(1), "skewed", 5, 64, 8)
    where = And((Eq("tags", "t2"), Range("year", gte=100)))
    return (
        index.ids(),
        held(index),
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


def test_a_dangling_link_is_not_overwritten(little: SparseIndex, tmp_path: Path) -> None:
    """A snapshot would appear where a link was to lead once its disk is back."""
    (tmp_path / "snapshot").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SnapshotExists, match="snapshots are never overwritten"):
        little.save(tmp_path / "snapshot")
    assert (tmp_path / "snapshot").is_symlink()


def test_of_two_saves_to_one_path_one_wins(
    little: SparseIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever saves at the same time as another would get an error that does not say so."""
    write = snapshot.write_durably

    def write_slower_than_another_save(*arguments: Any) -> None:
        monkeypatch.setattr(snapshot, "write_durably", write)
        little.save(tmp_path / "snapshot")
        write(*arguments)

    monkeypatch.setattr(snapshot, "write_durably", write_slower_than_another_save)
    with pytest.raises(SnapshotExists, match="snapshots are never overwritten"):
        little.save(tmp_path / "snapshot")
    assert list(tmp_path.iterdir()) == [tmp_path / "snapshot"]
    assert answers(SparseIndex.load(tmp_path / "snapshot")) == answers(little)


def test_a_backup_by_another_user_can_read_a_snapshot(little: SparseIndex, tmp_path: Path) -> None:
    """Backups that run as another user would find every snapshot locked."""
    (tmp_path / "plain").mkdir()
    little.save(tmp_path / "snapshot")
    assert (tmp_path / "snapshot").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize(
    ("lsns", "message"),
    [
        ({"a": 5}, r"a partition of lsns must be 0\.\.65535, not 'a'"),
        ({65_536: 5}, r"a partition of lsns must be 0\.\.65535, not 65536"),
        ({1: -1}, r"lsns\[1\] must be 0\.\.9223372036854775807, not -1"),
        ({1: 5.0}, r"lsns\[1\] must be .*, not 5\.0"),
        ([5], r"lsns must be a mapping from partition to position, not \[5\]"),
    ],
)
def test_impossible_positions(little: SparseIndex, tmp_path: Path, lsns: Any, message: str) -> None:
    """A snapshot would be written that cannot be loaded, found out when it is needed."""
    with pytest.raises(InvalidPositions, match=message):
        little.save(tmp_path / "snapshot", lsns=lsns)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_save_leaves_nothing(index: SparseIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk would leave half a snapshot that looks like one, or fill up further at every attempt."""

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        index.save(tmp_path / "snapshot")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def little(monkeypatch: pytest.MonkeyPatch) -> SparseIndex:
    """Return an index with two segments, a memtable, deletions and fields that is quick to save and load."""
    monkeypatch.setattr(writer, "SEAL_ROWS", 64)
    batch = codes(np.random.default_rng(0), "skewed", 170, 64, 8)
    records: list[Any] = [{"year": row, "tags": [f"t{row % 5}", "ü"]} for row in range(170)]
    index = SparseIndex(64, 8, {"year": "int", "tags": "keywords"})
    for begin in (0, 70, 140):
        rows = slice(begin, begin + 70)
        names = [f"doc-{row}" for row in range(170)[rows]]
        index.upsert(names, batch.latents[rows], batch.weights[rows], records[rows], None, range(170)[rows])
    index.delete(["doc-3", "doc-90", "doc-160"])
    return index


def test_every_changed_truncated_or_missing_file_is_refused(little: SparseIndex, tmp_path: Path) -> None:
    """A damaged disk would turn into silently wrong answers."""
    folder, rng = tmp_path / "snapshot", np.random.default_rng(0)
    little.save(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    named = [name for number in range(3) for name in manifest["body"]["segments"][number]["files"]]
    assert len(list(folder.iterdir())) == len(named) + 1 >= 3 * 12
    for file in sorted(folder.iterdir()):
        content = file.read_bytes()
        damages = [content[:-1], content + b"\x00", b""]
        for place in rng.integers(0, len(content), 3).tolist():
            flipped = content[place] ^ (1 << int(rng.integers(8)))
            damages.append(content[:place] + bytes([flipped]) + content[place + 1 :])
        for damaged in damages:
            file.write_bytes(damaged)
            with pytest.raises(CorruptSnapshot, match=file.name):
                SparseIndex.load(folder)
        file.unlink()
        with pytest.raises(CorruptSnapshot, match=file.name):
            SparseIndex.load(folder)
        file.write_bytes(content)
    assert answers(SparseIndex.load(folder)) == answers(little)


def inodes(folder: Path) -> set[int]:
    """Return the files of a snapshot as the disk knows them."""
    return {file.stat().st_ino for file in folder.iterdir()}


def test_segments_are_written_once(little: SparseIndex, tmp_path: Path) -> None:
    """Every snapshot of a large collection would cost its whole size in writes and disk space."""
    little.save(tmp_path / "first")
    little.delete(["doc-5"])
    batch = codes(np.random.default_rng(2), "skewed", 10, 64, 8)
    little.upsert([f"new-{row}" for row in range(10)], batch.latents, batch.weights)
    before = answers(little)
    little.save(tmp_path / "second")
    shared = inodes(tmp_path / "first") & inodes(tmp_path / "second")
    names = {file.name for file in (tmp_path / "second").iterdir() if file.stat().st_ino in shared}
    assert {"0000-latents.npy", "0000-ids.npy", "0001-weights.npy", "0001-posting-starts.npy"} <= names
    assert not {name for name in names if name.startswith("0002") or name in ("0000-alive.npy", "manifest.json")}
    shutil.rmtree(tmp_path / "first")
    loaded = SparseIndex.load(tmp_path / "second")
    assert answers(loaded) == before
    loaded.delete(["doc-6"])
    loaded.save(tmp_path / "third")
    assert len(inodes(tmp_path / "second") & inodes(tmp_path / "third")) > len(shared)
    assert answers(SparseIndex.load(tmp_path / "third")) == answers(loaded)


@pytest.mark.parametrize("fate", ["removed", "altered", "elsewhere"])
def test_what_cannot_be_linked_is_written(
    little: SparseIndex, tmp_path: Path, fate: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A snapshot would fail, or inherit the damage, when an earlier one was cleaned up, damaged or moved away."""
    little.save(tmp_path / "first")
    if fate == "removed":
        shutil.rmtree(tmp_path / "first")
    elif fate == "altered":
        file = tmp_path / "first" / "0000-latents.npy"
        content = file.read_bytes()
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    else:

        def another_disk(*_: Any) -> None:
            raise OSError(18, "Invalid cross-device link")

        monkeypatch.setattr("os.link", another_disk)
    little.save(tmp_path / "second")
    assert answers(SparseIndex.load(tmp_path / "second")) == answers(little)
    if fate != "altered":
        assert not (tmp_path / "first").exists() or not inodes(tmp_path / "first") & inodes(tmp_path / "second")


@pytest.mark.parametrize("meanwhile", ["in its place", "removed"])
def test_damage_to_a_mapped_file_never_becomes_valid(
    little: SparseIndex, tmp_path: Path, meanwhile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next snapshot would prove altered documents whole, and no later check could tell."""
    monkeypatch.setattr(stored, "MAPPED_BYTES_MIN", 0)
    little.save(tmp_path / "first")
    loaded = SparseIndex.load(tmp_path / "first")
    altered = tmp_path / "first" / "0000-weights.npy"
    with altered.open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x17")
    if meanwhile == "removed":
        shutil.rmtree(tmp_path / "first")
    with pytest.raises(CorruptSnapshot, match=r"first/0000-weights\.npy was altered while it was mapped"):
        loaded.save(tmp_path / "second")
    assert not [file for file in tmp_path.iterdir() if file.name != "first"]


def test_a_loaded_index_keeps_few_files_open(little: SparseIndex, tmp_path: Path) -> None:
    """A server with a few dozen small collections could open no connection after it was started again."""
    little.save(tmp_path / "snapshot")
    before = len(list(Path("/proc/self/fd").iterdir()))
    loaded = SparseIndex.load(tmp_path / "snapshot")
    assert len(list(Path("/proc/self/fd").iterdir())) <= before
    assert answers(loaded) == answers(little)


def test_a_snapshot_that_cannot_be_opened_now_is_not_called_corrupt(little: SparseIndex, tmp_path: Path) -> None:
    """A healthy snapshot would be thrown away because its server had too many files open."""
    little.save(tmp_path / "snapshot")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            SparseIndex.load(tmp_path / "snapshot")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert answers(SparseIndex.load(tmp_path / "snapshot")) == answers(little)


def test_a_loaded_index_lives_on_its_files_and_never_changes_them(
    little: SparseIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loading would need all memory at once, or the first merge would destroy the snapshot."""
    monkeypatch.setattr(stored, "MAPPED_BYTES_MIN", 0)
    little.save(tmp_path / "snapshot")
    before = {file: file.read_bytes() for file in (tmp_path / "snapshot").iterdir()}
    loaded = SparseIndex.load(tmp_path / "snapshot")
    owner: Any = loaded.state.parts[0].segment.rows.latents
    while isinstance(owner, np.ndarray):
        owner = owner.base
    assert isinstance(owner, mmap.mmap)
    for begin in range(0, 5 * 64, 64):
        names = [f"new-{row}" for row in range(begin, begin + 64)]
        for index in (little, loaded):
            index.upsert(names, np.full((64, 1), begin % 7), np.ones((64, 1), np.float32))
            index.delete([f"doc-{begin // 4}"])
    loaded.settle()
    assert len(loaded.state.parts) <= writer.SEGMENTS_MAX
    assert answers(loaded) == answers(little)
    SparseIndex.load(tmp_path / "snapshot").state.parts[0].segment.rows.latents[:] = 0  # as a bug would
    assert {file: file.read_bytes() for file in (tmp_path / "snapshot").iterdir()} == before


def test_a_snapshot_is_of_the_moment_asked_for(little: SparseIndex, tmp_path: Path) -> None:
    """A server would go on in the log at a position that its documents are not at."""
    moment, expected = little.state, answers(little)
    little.delete(["doc-7", "doc-100", "doc-165"])
    little.upsert(["doc-8"], **single([1], [1.0]))
    little.save(tmp_path / "snapshot", lsns={0: 17, 65_535: 1 << 60}, at=moment)
    loaded = SparseIndex.load(tmp_path / "snapshot")
    assert answers(loaded) == expected
    assert loaded.lsns == {0: 17, 65_535: 1 << 60}
    assert little.lsns == {}


@pytest.mark.parametrize(("version", "lsns"), [(1, {}), (2, {0: 17})])
def test_earlier_formats_are_read(tmp_path: Path, version: int, lsns: dict[int, int]) -> None:
    """An update of the program would make every snapshot worthless."""
    shutil.unpack_archive(Path(__file__).with_name(f"snapshot_format_{version}.zip"), tmp_path)
    documents = {
        f"doc-{row}": oracle.Document(oracle.stored_code([row % 16, (row + 1) % 16], [2.0, 1.0]), {"year": row})
        for row in range(100)
        if row % 10
    }
    index = SparseIndex.load(tmp_path / "snapshot")
    assert index.ids() == sorted(documents)
    query = oracle.stored_code([3, 4], [1.0, 1.0])
    for k_docs in (1, 2):
        hits = index.search(**single([3, 4], [1.0, 1.0]), top_n=50, k_docs=k_docs)[0]
        assert hits == oracle.search(documents, query, 50, k_docs=k_docs)
    assert [name for name, _ in index.search(**single([3], [1.0]), top_n=9, where=Eq("year", 83))[0]] == ["doc-83"]
    assert index.lsns == lsns
    assert held(index) == dict.fromkeys(documents, (0, 0))
    index.save(tmp_path / "again")
    assert SparseIndex.load(tmp_path / "again").ids() == sorted(documents)


KILLED_WHILE_SAVING = """
import os, signal, sys
from pathlib import Path
import numpy as np
from services.index.core.index import SparseIndex

folder = Path(sys.argv[1])
index = SparseIndex(16, 2)
rows = np.arange(5_000)
index.upsert([f"doc-{row}" for row in rows], rows[:, None] % 16, np.ones((5_000, 1), np.float32))
index.upsert(["recent"], np.array([[1]]), np.ones((1, 1), np.float32))
index.save(folder / "whole")
for linked in (True, False):
    for last in range(1_000):
        child = os.fork()
        if not child:
            left = last
            def before_each_step(event, _):
                global left
                if event in ("os.mkdir", "os.link", "open", "os.rename"):
                    if not left:
                        os.kill(os.getpid(), signal.SIGKILL)
                    left -= 1
            if not linked:
                index._stored = type(index._stored)()
            sys.addaudithook(before_each_step)
            index.save(folder / f"{linked}-{last}")
            os._exit(0)
        if os.waitpid(child, 0)[1] == 0:
            break
"""


@pytest.mark.robustness
def test_a_program_killed_at_any_moment_of_a_save_leaves_a_whole_snapshot_or_none(tmp_path: Path) -> None:
    """A crash during a save would leave something that looks like a snapshot and is none, or spoil earlier ones."""
    subprocess.run([sys.executable, "-c", KILLED_WHILE_SAVING, tmp_path], check=True, timeout=240)
    expected = SparseIndex.load(tmp_path / "whole").ids()
    assert len(expected) == 5_001
    finished = [folder for folder in tmp_path.iterdir() if not folder.name.startswith(".")]
    killed = [folder for folder in tmp_path.iterdir() if folder.name.startswith(".")]
    assert len(killed) > 40
    assert len(finished) == 5  # the first one; and with links and without: killed after the rename, and not at all
    for folder in finished:
        assert SparseIndex.load(folder).ids() == expected


@pytest.mark.parametrize(
    ("version", "error", "message"),
    [
        (snapshot.FORMAT_VERSION + 1, UnsupportedSnapshot, "has format_version 4; this program reads up to 3"),
        ("2", CorruptSnapshot, "manifest.json was altered"),
        (True, CorruptSnapshot, "manifest.json was altered"),
    ],
)
def test_other_formats_are_refused(tmp_path: Path, version: Any, error: type[Exception], message: str) -> None:
    """An old server would misread what a newer one wrote."""
    index = SparseIndex(8, 4)
    index.upsert(["a"], **single([1], [1.0]))
    index.save(tmp_path / "snapshot")
    manifest = tmp_path / "snapshot" / "manifest.json"
    body = json.loads(manifest.read_text())["body"] | {"format_version": version}
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    manifest.write_text(json.dumps({"body": body, "sha256": digest}))
    with pytest.raises(error, match=message):
        SparseIndex.load(tmp_path / "snapshot")
