"""One chunk of a stream, from checked documents to stored ones."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from csr.v1 import search_pb2
from services.index.store.catalog import CollectionRecord
from services.index.store.writer import DocumentWrite
from services.router.concurrently import concurrently
from services.router.deadline import Deadline
from services.router.document_encoder import DocumentEncoder
from services.router.log_writes import LogWrites
from services.router.stream_chunk import REFUSALS, CheckedChunk, check_chunk, of_row
from services.router.tokens import token_message
from services.router.write_request import CheckedUpsert
from services.runtime import metrics

_ENCODED_ALONE: Final = 16
"""Documents that are encoded one by one at a time, to find those that the encoder refuses."""


@dataclass(frozen=True)
class PreparedChunk:
    """A chunk, encoded.

    Attributes:
        record: By whose rules it was.
        writes: Documents to store, by position in the chunk ascending.
        refused: What is wrong with the others, by position.
    """

    record: CollectionRecord
    writes: Mapping[int, DocumentWrite]
    refused: Mapping[int, str]


class ChunkWriter:
    """Prepares and stores chunks; holds no state of its own."""

    def __init__(self, encoder: DocumentEncoder, log: LogWrites, deadline_seconds: float) -> None:
        self._encoder = encoder
        self._log = log
        self._deadline_seconds = deadline_seconds

    async def prepare(
        self, record: CollectionRecord, chunk: search_pb2.UpsertChunk, allow_truncation: bool
    ) -> PreparedChunk:
        """Check and encode a chunk.

        Raises:
            CsrError: what concerns more than single documents, such as an encoder that cannot be reached.
        """
        deadline = Deadline.after(self._deadline_seconds)
        checked = await asyncio.to_thread(check_chunk, chunk, record)
        if checked.upsert is None:
            return PreparedChunk(record, {}, checked.refused)
        try:
            encoded = await self._encoder.writes(record, checked.upsert, allow_truncation, deadline)
            return PreparedChunk(record, dict(zip(checked.rows, encoded, strict=True)), checked.refused)
        except REFUSALS:  # such as a text that is too long for the backbone
            return await self._prepare_alone(record, checked, checked.upsert, allow_truncation, deadline)

    async def _prepare_alone(
        self,
        record: CollectionRecord,
        checked: CheckedChunk,
        upsert: CheckedUpsert,
        allow_truncation: bool,
        deadline: Deadline,
    ) -> PreparedChunk:
        writes: dict[int, DocumentWrite] = {}
        refused = dict(checked.refused)
        room = asyncio.Semaphore(_ENCODED_ALONE)

        async def encode(place: int, row: int) -> None:
            async with room:
                try:
                    (writes[row],) = await self._encoder.writes(record, upsert.only(place), allow_truncation, deadline)
                except REFUSALS as error:
                    refused[row] = of_row(error, row)

        await concurrently(encode(place, row) for place, row in enumerate(checked.rows))
        return PreparedChunk(record, {row: writes[row] for row in sorted(writes)}, refused)

    async def store(
        self, chunk: search_pb2.UpsertChunk, prepared: PreparedChunk, write_id: str
    ) -> search_pb2.UpsertStreamResponse:
        """Store a chunk and tell what became of each of its documents.

        Raises:
            CsrError: as LogWrites.write.
        """
        results = [
            search_pb2.WriteResult(status=search_pb2.WRITE_STATUS_INVALID, error=prepared.refused.get(row, ""))
            for row in range(len(chunk.ids))
        ]
        metrics.counter(metrics.DOCUMENTS_WRITTEN).labels("invalid").inc(len(prepared.refused))
        positions: Mapping[int, int] = {}
        if prepared.writes:
            deadline = Deadline.after(self._deadline_seconds)
            written = await self._log.write(prepared.record, list(prepared.writes.values()), write_id, deadline)
            positions = written.positions
            for row, result in zip(prepared.writes, written.results, strict=True):
                results[row] = result
        token = token_message(prepared.record.collection_id, positions)
        return search_pb2.UpsertStreamResponse(sequence=chunk.sequence, results=results, token=token)
