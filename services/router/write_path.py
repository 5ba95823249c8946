"""Writes: encode for every live generation, then hand all partitions to the store at once."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import structlog
from numpy.typing import NDArray

from csr.v1 import search_pb2
from csr.v1.vector_pb2 import TextBatch
from services.index.store.catalog import CollectionRecord
from services.index.store.entry import DocumentBody, QuantisedCode, input_digest
from services.index.store.writer import DocumentWrite, LogWriter, PartitionWrite, WriteStatus
from services.router.deadline import Deadline
from services.router.directory import Directory
from services.router.encoder_client import Encoded, EncoderClient
from services.router.tokens import token_message
from services.router.write_request import (
    CheckedUpsert,
    check_delete,
    check_upsert,
    rows_by_partition,
    stored_codes,
    write_error,
)
from services.runtime import metrics
from services.runtime.errors import CsrError

log = structlog.get_logger()

_STATUS: Final[Mapping[WriteStatus, search_pb2.WriteStatus.ValueType]] = {
    WriteStatus.APPLIED: search_pb2.WRITE_STATUS_APPLIED,
    WriteStatus.UNCHANGED: search_pb2.WRITE_STATUS_UNCHANGED,
    WriteStatus.STALE: search_pb2.WRITE_STATUS_STALE,
    WriteStatus.CONFLICT: search_pb2.WRITE_STATUS_CONFLICT,
}
_DELETION_DIGEST: Final = input_digest(b"deleted")


class WritePath:
    """Carries out upserts and deletions; holds no state of its own."""

    def __init__(self, directory: Directory, encoder: EncoderClient, writer: LogWriter) -> None:
        self._directory = directory
        self._encoder = encoder
        self._writer = writer

    async def upsert(self, request: search_pb2.UpsertRequest, deadline: Deadline) -> search_pb2.UpsertResponse:
        """Store documents. Nothing is stored unless all of the request is valid.

        Raises:
            CsrError: naming the field and the limit, or what cannot be reached.
        """
        return await self._directory.answered(
            request.collection, lambda record: self._upsert(record, request, deadline)
        )

    async def delete(self, request: search_pb2.DeleteRequest) -> search_pb2.DeleteResponse:
        """Delete documents by id.

        Raises:
            CsrError: naming the field and the limit, or what cannot be reached.
        """
        return await self._directory.answered(request.collection, lambda record: self._delete(record, request))

    async def _upsert(
        self, record: CollectionRecord, request: search_pb2.UpsertRequest, deadline: Deadline
    ) -> search_pb2.UpsertResponse:
        upsert = check_upsert(request, record)
        inputs, embeddings, codes = await self._encoded(record, upsert, request.allow_truncation, deadline)
        writes = [
            DocumentWrite(
                id,
                upsert.versions[row],
                deleted=False,
                body=DocumentBody(
                    None if embeddings is None else embeddings[row],
                    upsert.payloads[row],
                    {generation: of_generation[row] for generation, of_generation in codes.items()},
                ),
                input_digest=input_digest(inputs[row], upsert.payloads[row]),
            )
            for row, id in enumerate(upsert.ids)
        ]
        results, token = await self._write(record, writes, upsert.write_id)
        return search_pb2.UpsertResponse(results=results, token=token, write_id=upsert.write_id)

    async def _delete(self, record: CollectionRecord, request: search_pb2.DeleteRequest) -> search_pb2.DeleteResponse:
        delete = check_delete(request, record)
        writes = [
            DocumentWrite(id, version, deleted=True, body=None, input_digest=_DELETION_DIGEST)
            for id, version in zip(delete.ids, delete.versions, strict=True)
        ]
        results, token = await self._write(record, writes, delete.write_id)
        return search_pb2.DeleteResponse(results=results, token=token, write_id=delete.write_id)

    async def _encoded(
        self, record: CollectionRecord, upsert: CheckedUpsert, allow_truncation: bool, deadline: Deadline
    ) -> tuple[list[bytes], NDArray[np.float16] | None, dict[int, list[QuantisedCode]]]:
        """Return the bytes that tell one input from another, embeddings, and codes by generation."""
        vectors, active, k = upsert.vectors, record.active, record.k_max
        if isinstance(vectors, np.ndarray):
            inputs = [row.tobytes() for row in vectors]
            encoded = await self._encoder.encode_embeddings(active, vectors, k, deadline.remaining())
            embeddings = vectors
        elif isinstance(vectors, TextBatch):
            # A text's embedding may differ in its last bit from batch to batch; the text is what the client sent.
            inputs = [text.encode() for text in vectors.texts]
            encoded = await self._encoder.encode_texts(active, vectors, k, allow_truncation, deadline.remaining())
            embeddings = encoded.embeddings.astype(np.float16)
        else:
            return (
                [code.latents.tobytes() + code.weights.tobytes() for code in vectors],
                None,
                {active.generation: vectors},
            )
        return inputs, embeddings, await self._all_generations(record, embeddings, encoded, deadline)

    async def _all_generations(
        self, record: CollectionRecord, embeddings: NDArray[np.float16], active: Encoded, deadline: Deadline
    ) -> dict[int, list[QuantisedCode]]:
        """Return the codes by generation; a generation that is not active may be missing."""
        codes = {record.active.generation: stored_codes(active.codes, "encoder", record.active, record.k_max)}
        for generation in record.generations:
            if generation.state == "active":
                continue
            try:
                encoded = await self._encoder.encode_embeddings(
                    generation, embeddings, record.k_max, deadline.remaining()
                )
                codes[generation.generation] = stored_codes(encoded.codes, "encoder", generation, record.k_max)
            except CsrError as error:
                log.warning("documents lack a generation", generation=generation.generation, reason=str(error))
        return codes

    async def _write(
        self, record: CollectionRecord, writes: Sequence[DocumentWrite], write_id: str
    ) -> tuple[list[search_pb2.WriteResult], search_pb2.Token]:
        """Write all partitions at once, to the end even if one fails; return the results in the order of writes."""
        rows = rows_by_partition([write.id for write in writes], record.partitions)
        answers = await asyncio.gather(
            *(
                self._writer.write(
                    record,
                    partition,
                    [writes[row] for row in partition_rows],
                    write_id,
                    self._directory.highest_lsn(record.collection_id, partition),
                )
                for partition, partition_rows in rows.items()
            ),
            return_exceptions=True,
        )
        positions: dict[int, int] = {}
        results = [search_pb2.WriteResult()] * len(writes)
        failures: list[BaseException] = []
        for (partition, partition_rows), answer in zip(rows.items(), answers, strict=True):
            if not isinstance(answer, PartitionWrite):
                failures.append(answer)
                continue
            positions[partition] = answer.lsn
            for row, outcome in zip(partition_rows, answer.outcomes, strict=True):
                results[row] = search_pb2.WriteResult(status=_STATUS[outcome.status], version=outcome.version)
                metrics.counter(metrics.DOCUMENTS_WRITTEN).labels(outcome.status.value).inc()
        self._directory.saw(record.collection_id, positions)
        if failures:
            raise write_error(failures, len(positions), write_id)
        return results, token_message(record.collection_id, positions)
