import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from services.index.partition import Partition
from services.index.store.entry import LogEntry, combine_digests, document_digest
from services.index.store.load import PartitionLoad
from services.index.store.tail import PartitionTail

IDS = st.sampled_from(["a", "b", "c", "d"])


@st.composite
def logs(draw: st.DrawFn) -> list[LogEntry]:
    """Draw a log: versions of one document ascend, as the store makes sure; a version is live or deleted for good."""
    entries: list[LogEntry] = []
    versions: dict[str, int] = {}
    for lsn, id in enumerate(draw(st.lists(IDS, max_size=20)), 1):
        versions[id] = versions.get(id, 0) + draw(st.integers(1, 3))
        entries.append(entry(lsn, id, versions[id], deleted=draw(st.booleans())))
    return entries


def entry(lsn: int, id: str, version: int, deleted: bool = False, body: bytes | None = None) -> LogEntry:
    """Return an entry whose body names it."""
    text = b"" if deleted else body or f"{id}{version}".encode()
    return LogEntry(lsn, id, version, deleted, bytes(8), text, bytes(8), lsn.to_bytes(20))


def tail_of(lsn: int) -> PartitionTail:
    """Return the position of a log with this many entries."""
    return PartitionTail("c", 0, lsn, lsn.to_bytes(20))


def replayed(entries: list[LogEntry]) -> Partition:
    """Return the partition after these entries."""
    partition = Partition("c", 0)
    partition.apply(entries, tail_of(len(entries)))
    return partition


def same(left: Partition, right: Partition) -> bool:
    """Return whether two partitions hold the same, at whatever position."""
    return (left.live, left.state_digest) == (right.live, right.state_digest)


@settings(deadline=None)
@given(logs(), st.data())
def test_replaying_a_stretch_of_the_log_again_changes_nothing(log: list[LogEntry], data: st.DataObject) -> None:
    """A server that reads entries twice, after a load or a lost connection, would resurrect or lose documents."""
    begin = data.draw(st.integers(0, len(log)))
    end = data.draw(st.integers(begin, len(log)))
    assert same(replayed(log[:end] + log[begin:]), replayed(log))


@settings(deadline=None)
@given(logs())
def test_the_state_digest_is_that_of_the_live_documents(log: list[LogEntry]) -> None:
    """Servers and store could not be compared, and a lost document would stay unnoticed."""
    partition = replayed(log)
    assert partition.state_digest == combine_digests(document_digest(id, v) for id, v in partition.live.items())
    assert not partition.live.keys() & partition.tombstones.keys()


@settings(deadline=None)
@given(logs())
def test_changes_are_the_net_effect(log: list[LogEntry]) -> None:
    """The engine would keep documents that are deleted, or show bodies that were replaced."""
    changes = Partition("c", 0).apply(log, tail_of(len(log)))
    partition = replayed(log)
    assert {id for id, body in changes.items() if body is None} == partition.tombstones.keys()
    assert {id: body for id, body in changes.items() if body} == {
        id: f"{id}{version}".encode() for id, version in partition.live.items()
    }


@settings(deadline=None)
@given(logs(), logs())
def test_a_load_leaves_nothing_of_the_old_state(old: list[LogEntry], new: list[LogEntry]) -> None:
    """After a reload, documents that are gone would still be found."""
    expected = replayed(new)
    ids, versions = list(expected.live), np.array(list(expected.live.values()), np.int64)
    bodies = [f"{id}{version}".encode() for id, version in expected.live.items()]
    partition = replayed(old)
    engine = {id: f"{id}{version}".encode() for id, version in partition.live.items()}
    load = PartitionLoad(tail_of(len(new)), ids, versions, bodies, len(ids), expected.state_digest)
    for id, body in partition.replace(load).items():
        engine.pop(id, None)
        if body is not None:
            engine[id] = body
    assert same(partition, expected)
    assert partition.tail == tail_of(len(new))
    assert engine == {id: f"{id}{version}".encode() for id, version in expected.live.items()}


def test_an_entry_of_the_live_version_brings_its_body() -> None:
    """A backfill adds a document's code for a new generation under its version; the server would never index it."""
    partition = replayed([entry(1, "a", 5)])
    digest = partition.state_digest
    assert partition.apply([entry(2, "a", 5, body=b"more codes")], tail_of(2)) == {"a": b"more codes"}
    assert partition.state_digest == digest
