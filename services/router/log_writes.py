"""Hands all partitions of a write to the store at once, and tells what became of each document."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from csr.v1 import search_pb2
from services.index.store.catalog import CollectionRecord
from services.index.store.writer import LogWriter, PartitionWrite, Write, WriteStatus
from services.router.capacity import check_room
from services.router.deadline import Deadline
from services.router.directory import Directory
from services.router.write_request import is_deletion, rows_by_partition, write_error
from services.runtime import metrics
from services.runtime.errors import StoreUnavailable

_ANSWER_SECONDS: Final = 0.01
"""Kept back from the deadline to say that the outcome is unknown, and how to repeat the write."""
_STATUS: Final[Mapping[WriteStatus, search_pb2.WriteStatus.ValueType]] = {
    WriteStatus.APPLIED: search_pb2.WRITE_STATUS_APPLIED,
    WriteStatus.UNCHANGED: search_pb2.WRITE_STATUS_UNCHANGED,
    WriteStatus.STALE: search_pb2.WRITE_STATUS_STALE,
    WriteStatus.CONFLICT: search_pb2.WRITE_STATUS_CONFLICT,
    WriteStatus.MISSING: search_pb2.WRITE_STATUS_MISSING,
}


@dataclass(frozen=True)
class Written:
    """What became of a write.

    Attributes:
        outcomes: Status and version of each document, in the order of the writes.
        positions: Log position that covers all of it, by partition.
    """

    outcomes: Sequence[tuple[WriteStatus, int]]
    positions: Mapping[int, int]

    @property
    def results(self) -> list[search_pb2.WriteResult]:
        """The outcomes, as requests without conditions answer them."""
        return [search_pb2.WriteResult(status=_STATUS[status], version=version) for status, version in self.outcomes]


class LogWrites:
    """Writes to the logs of a collection; holds no state of its own."""

    def __init__(self, directory: Directory, writer: LogWriter) -> None:
        self._directory = directory
        self._writer = writer

    async def write(
        self, record: CollectionRecord, writes: Sequence[Write], write_id: str, deadline: Deadline
    ) -> Written:
        """Write all partitions at once, to the end even if one fails.

        Args:
            record: The collection.
            writes: Documents of any partitions, ids unique.
            write_id: Names the write; a repeat has the first outcome.
            deadline: When it passes, the outcome is unknown.

        Raises:
            StoreUnavailable: unknown whether it happened; or nothing was written, if Redis is known to be down.
            StoreFull: Redis, or an index server that would hold the documents, has no memory left.
            WrongState: the collection was deleted or is frozen.
            InvalidRequest: the write id was used for another write.
        """
        self._directory.check_store()
        rows = rows_by_partition([write.id for write in writes], record.partitions)
        growing = [partition for partition, own in rows.items() if not all(is_deletion(writes[row]) for row in own)]
        check_room(self._directory.reports, self._directory.placement, record, growing)
        answers = await self._answers(record, writes, rows, write_id, deadline)
        positions: dict[int, int] = {}
        outcomes: list[tuple[WriteStatus, int]] = [(WriteStatus.APPLIED, 0)] * len(writes)
        failures: list[BaseException] = []
        for (partition, partition_rows), answer in zip(rows.items(), answers, strict=True):
            if not isinstance(answer, PartitionWrite):
                failures.append(answer)
                continue
            positions[partition] = answer.lsn
            for row, outcome in zip(partition_rows, answer.outcomes, strict=True):
                outcomes[row] = (outcome.status, outcome.version)
            for status, documents in Counter(outcome.status for outcome in answer.outcomes).items():
                metrics.counter(metrics.DOCUMENTS_WRITTEN).labels(status.value).inc(documents)
        self._directory.saw(record.collection_id, positions)
        if failures:
            raise write_error(failures, len(positions), write_id)
        return Written(outcomes, positions)

    async def _answers(
        self,
        record: CollectionRecord,
        writes: Sequence[Write],
        rows: Mapping[int, list[int]],
        write_id: str,
        deadline: Deadline,
    ) -> list[PartitionWrite | BaseException]:
        calls = (
            self._writer.write(
                record,
                partition,
                [writes[row] for row in partition_rows],
                write_id,
                self._directory.highest_lsn(record.collection_id, partition),
            )
            for partition, partition_rows in rows.items()
        )
        try:
            async with asyncio.timeout(deadline.remaining() - _ANSWER_SECONDS):
                return list(await asyncio.gather(*calls, return_exceptions=True))
        except TimeoutError:
            late = StoreUnavailable("Redis did not answer before the deadline")
            raise write_error([late], 0, write_id) from None
