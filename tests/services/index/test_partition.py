import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from services.index.changes import changes_of_loads, changes_of_logs
from services.index.partition import PartitionState
from services.index.store.entry import LogEntry, combine_digests, document_digest
from services.index.store.load import PartitionLoad
from services.index.store.tail import PartitionTail

IDS = st.sampled_from(["a", "b", "c", "d"])


@st.composite
def logs(draw: st.DrawFn) -> list[LogEntry]:
    """Draw a log: versions of one document ascend, as the store makes sure, and a backfill may repeat one."""
    entries: list[LogEntry] = []
    versions: dict[str, int] = {}
    live: dict[str, int] = {}
    for lsn, id in enumerate(draw(st.lists(IDS, max_size=20)), 1):
        repeated = id in live and draw(st.booleans())
        versions[id] = versions.get(id, 0) + (0 if repeated else draw(st.integers(1, 3)))
        deleted = not repeated and draw(st.booleans())
        entries.append(entry(lsn, id, versions[id], live.pop(id, 0), deleted))
        if not deleted:
            live[id] = versions[id]
    return entries


def entry(lsn: int, id: str, version: int, previous: int, deleted: bool = False) -> LogEntry:
    """Return an entry whose body names it."""
    body = b"" if deleted else f"{id}{version}".encode()
    return LogEntry(lsn, id, version, deleted, bytes(8), body, bytes(8), lsn.to_bytes(20), previous)


def tail_of(lsn: int) -> PartitionTail:
    """Return the position of a log with this many entries."""
    return PartitionTail("c", 0, lsn, lsn.to_bytes(20))


def living(log: list[LogEntry]) -> dict[str, int]:
    """Return the versions of the documents that live after these entries, by replaying them one by one."""
    live: dict[str, int] = {}
    for each in log:
        live.pop(each.id, None)
        if not each.deleted:
            live[each.id] = each.version
    return live


@settings(deadline=None)
@given(logs(), st.data())
def test_count_and_digest_are_those_of_the_live_documents(log: list[LogEntry], data: st.DataObject) -> None:
    """Servers and store could not be compared, and a lost document would stay unnoticed."""
    middle = data.draw(st.integers(0, len(log)))
    state = PartitionState(tail_of(0)).after(log[:middle], tail_of(middle)).after(log[middle:], tail_of(len(log)))
    live = living(log)
    assert state.tail == tail_of(len(log))
    assert state.documents == len(live)
    assert state.digest == combine_digests(document_digest(id, version) for id, version in live.items())


@settings(deadline=None)
@given(logs())
def test_changes_are_the_net_effect(log: list[LogEntry]) -> None:
    """The engine would keep documents that are deleted, or show bodies that were replaced."""
    changes = changes_of_logs({0: log}, {})
    live = living(log)
    assert dict(zip(changes.ids, changes.versions.tolist(), strict=True)) == live
    assert changes.bodies == [f"{id}{live[id]}".encode() for id in changes.ids]
    assert set(changes.gone) == {each.id for each in log} - live.keys()
    assert len(changes.gone) == len(set(changes.gone))
    assert not changes.dropped


def test_loads_replace_whole_partitions() -> None:
    """After a reload, documents that are gone would still be found, or those of another partition vanish."""
    loads = [
        PartitionLoad(PartitionTail("c", 3, 1), ["a", "b"], np.array([5, 6], np.int64), [b"A", b"B"], 2, bytes(20)),
        PartitionLoad(PartitionTail("c", 1, 9), ["c"], np.array([7], np.int64), [b"C"], 1, bytes(20)),
    ]
    changes = changes_of_loads(loads, {})
    assert changes.dropped == {1, 3}
    assert (changes.ids, changes.bodies) == (["a", "b", "c"], [b"A", b"B", b"C"])
    assert changes.versions.tolist() == [5, 6, 7]
    assert changes.partitions.tolist() == [3, 3, 1]
