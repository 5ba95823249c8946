"""Writes: check, encode, hand to the store, and wait until searches see them if asked to."""

import asyncio
from collections.abc import Sequence

from csr.v1 import search_pb2
from services.index.store.catalog import CollectionRecord
from services.index.store.entry import input_digest
from services.index.store.writer import PayloadWrite, Write
from services.router.deadline import Deadline
from services.router.directory import Directory
from services.router.document_encoder import DocumentEncoder
from services.router.log_writes import LogWrites
from services.router.tokens import token_message
from services.router.visibility import Visibility
from services.router.write_request import check_delete, check_payload_update, check_upsert, checked_write_id, deletion

_PAYLOAD_INPUT = b"payload"
"""Sets the digest of a new payload apart from that of a whole document."""


class WritePath:
    """Carries out upserts, payload updates and deletions by id; holds no state of its own."""

    def __init__(self, directory: Directory, encoder: DocumentEncoder, log: LogWrites, visibility: Visibility) -> None:
        self._directory = directory
        self._encoder = encoder
        self._log = log
        self._visibility = visibility

    async def upsert(self, request: search_pb2.UpsertRequest, deadline: Deadline) -> search_pb2.UpsertResponse:
        """Store documents. Nothing is stored unless all of the request is valid.

        Raises:
            CsrError: naming the field and the limit, or what cannot be reached.
        """

        async def upsert(record: CollectionRecord) -> search_pb2.UpsertResponse:
            self._directory.check_store()  # before the encoder works for nothing
            write_id = checked_write_id(request.write_id)
            checked = await asyncio.to_thread(check_upsert, request, record)  # megabytes of JSON hold up all others
            writes = await self._encoder.writes(record, checked, request.allow_truncation, deadline)
            results, token, visible = await self._written(record, writes, write_id, request.wait, deadline)
            return search_pb2.UpsertResponse(results=results, token=token, write_id=write_id, visible=visible)

        return await self._directory.answered(request.collection, upsert)

    async def update_payloads(
        self, request: search_pb2.UpdatePayloadsRequest, deadline: Deadline
    ) -> search_pb2.UpdatePayloadsResponse:
        """Replace payloads. Nothing is stored unless all of the request is valid.

        Raises:
            CsrError: naming the field and the limit, or what cannot be reached.
        """

        async def update(record: CollectionRecord) -> search_pb2.UpdatePayloadsResponse:
            checked = await asyncio.to_thread(check_payload_update, request, record)
            writes = [
                PayloadWrite(id, version, payload, input_digest(_PAYLOAD_INPUT, payload))
                for id, version, payload in zip(checked.ids, checked.versions, checked.payloads, strict=True)
            ]
            results, token, visible = await self._written(record, writes, checked.write_id, request.wait, deadline)
            return search_pb2.UpdatePayloadsResponse(
                results=results, token=token, write_id=checked.write_id, visible=visible
            )

        return await self._directory.answered(request.collection, update)

    async def delete(self, request: search_pb2.DeleteRequest, deadline: Deadline) -> search_pb2.DeleteResponse:
        """Delete documents by id.

        Raises:
            CsrError: naming the field and the limit, or what cannot be reached.
        """

        async def delete(record: CollectionRecord) -> search_pb2.DeleteResponse:
            checked = check_delete(request, record)
            writes = [deletion(id, version) for id, version in zip(checked.ids, checked.versions, strict=True)]
            results, token, visible = await self._written(record, writes, checked.write_id, request.wait, deadline)
            return search_pb2.DeleteResponse(results=results, token=token, write_id=checked.write_id, visible=visible)

        return await self._directory.answered(request.collection, delete)

    async def _written(
        self, record: CollectionRecord, writes: Sequence[Write], write_id: str, wait: bool, deadline: Deadline
    ) -> tuple[list[search_pb2.WriteResult], search_pb2.Token, bool]:
        """Return the results in the order of writes, a token that covers them, and whether searches see them."""
        written = await self._log.write(record, writes, write_id, deadline)
        visible = wait and await self._visibility.reached(record, written.positions, deadline)
        return written.results, token_message(record.collection_id, written.positions), visible
