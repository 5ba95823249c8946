from collections.abc import Callable

import pytest

from services.index.store.catalog import CollectionRecord
from services.index.store.placement import IndexServer, PlacementTable
from services.index.store.reports import ServerReport
from services.router.capacity import check_room, largest_lag
from services.runtime.errors import StoreFull

TABLE = PlacementTable(1, 1, (IndexServer("index-0", "a:1"), IndexServer("index-1", "b:1")))


def reports(**memory: int) -> dict[str, ServerReport]:
    """Return reports of servers with a limit of 1,000 bytes."""
    named = {name.replace("_", "-"): used for name, used in memory.items()}
    return {name: ServerReport(name, used, 1_000, lag_entries=used) for name, used in named.items()}


def owned_by(record: CollectionRecord, name: str) -> list[int]:
    """Return the partitions of a server."""
    return [number for number in range(64) if TABLE.owner(record.collection_id, number).name == name]


def test_documents_for_a_full_server_are_refused(new_record: Callable[..., CollectionRecord]) -> None:
    """Documents would be acknowledged that no search will ever see, until the server dies of them."""
    record = new_record(partitions=64)
    known = reports(index_0=949, index_1=950)
    check_room(known, TABLE, record, owned_by(record, "index-0"))
    with pytest.raises(StoreFull, match="index server index-1 uses 950 of 1000 bytes"):
        check_room(known, TABLE, record, range(64))


def test_a_silent_server_is_not_full(new_record: Callable[..., CollectionRecord]) -> None:
    """A server that restarts would stop all writes."""
    record = new_record(partitions=64)
    check_room({}, TABLE, record, range(64))
    check_room(reports(index_0=1), TABLE, record, range(64))


def test_nothing_is_written_nothing_is_refused(new_record: Callable[..., CollectionRecord]) -> None:
    """Deletions would be refused exactly when they are needed."""
    check_room(reports(index_0=1_000, index_1=1_000), TABLE, new_record(), [])


def test_the_slowest_server_counts(new_record: Callable[..., CollectionRecord]) -> None:
    """A stream would outrun the server that is farthest behind."""
    record = new_record(partitions=64)
    known = reports(index_0=3, index_1=70)
    assert largest_lag(known, TABLE, record, range(64)) == 70
    assert largest_lag(known, TABLE, record, owned_by(record, "index-0")) == 3
    assert largest_lag({}, TABLE, record, range(64)) == 0
