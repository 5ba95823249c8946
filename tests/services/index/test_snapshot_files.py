"""Snapshots in files: whole or not there, and never used when anything about them is wrong."""

import json
import shutil
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from services.index import snapshot_files
from services.index.collection import CollectionIndex, Restored
from services.index.snapshot_files import UnusableSnapshot
from services.index.store.catalog import CollectionRecord
from tests.services.index.test_collection import FIRST, RECORD, SECOND, body_of, load_of, read_of
from tests.services.index.test_generation import found
from tests.services.index.world import random_code

CREATED = 1_000_000.0
TWO = replace(RECORD, generations=(FIRST, SECOND))


@pytest.fixture
async def collection(rng: np.random.Generator) -> AsyncIterator[CollectionIndex]:
    """A collection of two generations with three ready partitions and one that is not."""
    with ThreadPoolExecutor(1) as executor:
        index = CollectionIndex(TWO, executor)
        await index.update(TWO, frozenset(range(4)))
        for partition in range(3):
            documents = {f"{partition}-{i}": body_of(1, 2, code=random_code(rng)) for i in range(20)}
            await index.load([load_of(partition, 7 + partition, **documents)])
        yield index


def newest(folder: Path, record: CollectionRecord = TWO) -> tuple[int, Restored]:
    """Return the newest snapshot that can be used, and its number."""
    for number in snapshot_files.numbers(folder):
        try:
            return number, snapshot_files.load(folder, number, snapshot_files.read_manifest(folder, number), record)
        except UnusableSnapshot:
            continue
    raise UnusableSnapshot("none")


async def restored_from(snapshot: Restored, executor: ThreadPoolExecutor) -> CollectionIndex:
    """Return a collection that began from a snapshot and is level with its logs."""
    index = CollectionIndex(TWO, executor)
    await index.update(TWO, frozenset(range(4)))
    await index.restore(snapshot)
    return index


async def test_what_is_restored_is_what_was_saved(
    tmp_path: Path, collection: CollectionIndex, rng: np.random.Generator
) -> None:
    """A server that starts from a snapshot would answer otherwise than before it stopped."""
    snapshot_files.save(tmp_path, await collection.moment(), CREATED)
    _, snapshot = newest(tmp_path)
    assert snapshot.states == {partition: collection.held[partition].state for partition in range(3)}
    with ThreadPoolExecutor(1) as executor:
        index = await restored_from(snapshot, executor)
        assert [index.held[partition].stale for partition in range(4)] == [False, False, False, True]
        assert not any(index.ready(partition) for partition in range(4)), "answered before the log was read"
        code = random_code(rng)
        reads = [
            read_of(partition, 7 + partition, f"new-{partition}", body_of(1, 2, code=code)) for partition in (0, 1, 2)
        ]
        for each in (index, collection):
            await each.follow(reads)
        for number in (1, 2):
            ours, theirs = index.generations[number], collection.generations[number]
            assert ours.published.positions == theirs.published.positions == {0: 8, 1: 9, 2: 10}
            assert found(ours, ours.published, code, 0, 1, 2) == found(theirs, theirs.published, code, 0, 1, 2)
        for partition in range(3):
            assert index.held[partition].state == collection.held[partition].state


async def test_a_partition_that_was_not_ready_is_not_in_the_snapshot(
    tmp_path: Path, collection: CollectionIndex, rng: np.random.Generator
) -> None:
    """Documents of a partition that was damaged, or has moved to another server, would be found again."""
    code = random_code(rng)
    await collection.load([load_of(3, 5, leftover=body_of(1, 2, code=code))])
    await collection.withdraw([3])
    snapshot_files.save(tmp_path, await collection.moment(), CREATED)
    with ThreadPoolExecutor(1) as executor:
        index = await restored_from(newest(tmp_path)[1], executor)
        generation = index.active
        generation.publish(dict.fromkeys(range(4), 1), frozenset(range(4)))
        assert "leftover" not in found(generation, generation.published, code, 0, 1, 2, 3)


async def test_any_damaged_byte_makes_a_snapshot_unusable(tmp_path: Path, collection: CollectionIndex) -> None:
    """A flipped bit on a disk would become a wrong answer."""
    snapshot_files.save(tmp_path, await collection.moment(), CREATED)
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert len(files) > 20
    for path in files:
        whole = path.read_bytes()
        for at in (0, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
            with pytest.raises(UnusableSnapshot):
                newest(tmp_path)
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(UnusableSnapshot):
            newest(tmp_path)
        path.unlink()
        with pytest.raises(UnusableSnapshot):
            newest(tmp_path)
        path.write_bytes(whole)
    newest(tmp_path)


@pytest.mark.parametrize(
    "record",
    [
        replace(TWO, collection_id="1" * 16),
        replace(TWO, generations=(replace(FIRST, fingerprint="ee" * 16), SECOND)),
        replace(TWO, generations=(FIRST, SECOND, replace(SECOND, generation=3))),
        replace(TWO, k_max=4),
        replace(TWO, fields={"lang": "keyword"}),
    ],
    ids=["collection", "model", "generation", "k_max", "fields"],
)
async def test_a_snapshot_of_something_else_is_refused(
    tmp_path: Path, collection: CollectionIndex, record: CollectionRecord
) -> None:
    """Codes of another model, or of another collection, would be answered."""
    snapshot_files.save(tmp_path, await collection.moment(), CREATED)
    with pytest.raises(UnusableSnapshot):
        newest(tmp_path, record)


async def test_a_newer_format_is_refused_by_name(tmp_path: Path, collection: CollectionIndex) -> None:
    """After a downgrade a server would misread what the newer release wrote."""
    with mock.patch.object(snapshot_files, "FORMAT_VERSION", 2):
        snapshot_files.save(tmp_path, await collection.moment(), CREATED)
    with pytest.raises(UnusableSnapshot, match="format 2"):
        snapshot_files.read_manifest(tmp_path, 1)


@pytest.mark.parametrize("step", range(5))
async def test_a_crash_at_any_step_leaves_the_older_snapshot(
    tmp_path: Path, collection: CollectionIndex, step: int
) -> None:
    """A power cut while a snapshot is written would cost the one that was there, and leave rubbish for ever."""
    moment = await collection.moment()
    snapshot_files.save(tmp_path, moment, CREATED)
    with (
        mock.patch.object(Path, "rename", crashing(Path.rename, step)),
        mock.patch.object(shutil, "rmtree", crashing(shutil.rmtree, 0)),
    ):
        try:
            snapshot_files.save(tmp_path, moment, CREATED)
            snapshot_files.tidy(tmp_path)
        except Crash:
            pass
    number, _ = newest(tmp_path)
    snapshot_files.save(tmp_path, moment, CREATED)
    snapshot_files.tidy(tmp_path)
    assert newest(tmp_path)[0] > number
    kept = snapshot_files.numbers(tmp_path)
    assert len(kept) == snapshot_files.KEPT
    assert {path.name for path in tmp_path.iterdir()} == {
        name for number in kept for name in (f"{number}.json", f"{number}-g1", f"{number}-g2")
    }


class Crash(BaseException):
    """The end of a process, as far as a test can play it."""


def crashing(function: Callable[..., object], step: int) -> Callable[..., object]:
    """Return a function that ends the process at its call number `step`."""
    calls = iter(range(step + 1))

    def crash(*arguments: object, **options: object) -> object:
        if next(calls, step) == step:
            raise Crash
        return function(*arguments, **options)

    return crash


async def test_unchanged_segments_are_not_written_again(
    tmp_path: Path, collection: CollectionIndex, rng: np.random.Generator
) -> None:
    """Every snapshot of a large collection would cost its full size on disk, and minutes of writing."""
    many = {f"many-{i}": body_of(1, 2, code=random_code(rng)) for i in range(5_000)}
    await collection.load([load_of(3, 5, **many)])
    for _ in range(2):
        snapshot_files.save(tmp_path, await collection.moment(), CREATED)
    inodes = [{path.stat().st_ino for path in (tmp_path / f"{number}-g1").glob("*.npy")} for number in (1, 2)]
    assert len(inodes[0] & inodes[1]) > 5


def test_a_stray_is_no_snapshot(tmp_path: Path) -> None:
    """A file that somebody left in the folder would stop a server from starting."""
    for name in ("notes.txt", "3.json.unfinished", "0.json", "-1.json", "x.json"):
        (tmp_path / name).write_text(json.dumps({"body": {}}))
    (tmp_path / "4-g1").mkdir()
    assert snapshot_files.numbers(tmp_path) == []
    snapshot_files.tidy(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert snapshot_files.numbers(tmp_path / "nowhere") == []
