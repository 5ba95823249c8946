"""Whether index servers can take more documents, by what they report of themselves. Pure."""

from collections.abc import Iterable, Mapping
from typing import Final

from services.index.store.catalog import CollectionRecord
from services.index.store.placement import PlacementTable
from services.index.store.reports import ServerReport
from services.runtime.errors import StoreFull

FULL_SHARE: Final = 0.95
"""Of an index server's memory limit; the rest is for what was accepted before the router heard of it."""


def check_room(
    reports: Mapping[str, ServerReport], table: PlacementTable, record: CollectionRecord, partitions: Iterable[int]
) -> None:
    """Refuse documents for partitions whose index server has hardly any memory left.

    Raises:
        StoreFull: naming the server, what it uses and its limit.
    """
    for report in owner_reports(reports, table, record, partitions):
        if report.memory_bytes >= FULL_SHARE * report.memory_limit_bytes:
            raise StoreFull(
                f"index server {report.name} uses {report.memory_bytes} of {report.memory_limit_bytes} bytes of memory "
                f"and takes no more documents: delete some, or add servers"
            )


def largest_lag(
    reports: Mapping[str, ServerReport], table: PlacementTable, record: CollectionRecord, partitions: Iterable[int]
) -> int:
    """Return the log entries that the slowest of the servers of these partitions has still to read."""
    return max((report.lag_entries for report in owner_reports(reports, table, record, partitions)), default=0)


def owner_reports(
    reports: Mapping[str, ServerReport], table: PlacementTable, record: CollectionRecord, partitions: Iterable[int]
) -> list[ServerReport]:
    """Return the reports of all servers that hold one of these partitions; a silent server has none."""
    names = {server.name for partition in partitions for server in table.owners(record.collection_id, partition)}
    return [reports[name] for name in sorted(names & reports.keys())]
