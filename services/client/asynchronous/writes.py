"""Writes, over an asyncio connection."""

import uuid
from collections.abc import AsyncGenerator, AsyncIterable, Sequence

from services.client import writes
from services.client.asynchronous.connection import Connection
from services.client.asynchronous.streaming import Upload
from services.client.filters import Where
from services.client.streaming import StreamState
from services.client.types import Batch, BatchResult, Codes, FilterDeletion, Floats, Payload, Token, WriteResult


class WriteCalls(Connection):
    """Calls that store, change and delete documents."""

    async def upsert(
        self,
        collection: str,
        ids: Sequence[str],
        *,
        embeddings: Floats | None = None,
        texts: Sequence[str] | None = None,
        codes: Codes | None = None,
        payloads: Sequence[Payload] | None = None,
        versions: Sequence[int] | None = None,
        write_id: str | None = None,
        allow_truncation: bool = False,
        wait: bool = False,
    ) -> WriteResult:
        """Store documents, any number: they are sent in as many requests as the limits of one need.

        Args:
            collection: Its name.
            ids: 1..128 bytes each; unique within 1,000 in a row.
            embeddings: [n, d] of any float type; kind dense.
            texts: One each; kind dense, with a backbone in the encoder.
            codes: One row each; kind codes.
            payloads: One JSON object each.
            versions: One each, for client-versioned collections.
            write_id: Names the write: a repeat with the same arguments returns the first results and stores nothing.
            allow_truncation: Cut texts over the backbone's limit instead of refusing them.
            wait: Return when searches see the write, or the time is nearly up; the result says which.

        Raises:
            CsrError: of the first request that failed; those before it were stored. Repeat with the same write_id.
        """
        name = write_id or uuid.uuid4().hex
        batch = Batch(ids, embeddings, texts, codes, payloads, versions)
        parts = writes.upsert_requests(collection, batch, name, allow_truncation, wait)
        return writes.write_result([await self._retried(self._search.Upsert, part) for part in parts], name)

    def upsert_stream(
        self,
        collection: str,
        batches: AsyncIterable[Batch],
        *,
        stream_id: str | None = None,
        allow_truncation: bool = False,
    ) -> AsyncGenerator[BatchResult, None]:
        """Store any number of documents, as fast as the deployment takes them; yield what became of each batch.

        Batches are taken only as fast as earlier ones are stored; those without an answer are kept, few at a time,
        and sent again when the connection broke. What is wrong with one document concerns that one only: its result
        says so. Nothing happens before the first result is asked for, and what is not taken to its end is not stored
        to its end.

        Args:
            collection: Its name.
            batches: Each of any size.
            stream_id: 1..48 bytes. The same id and the same batches again, within a week, go on where an earlier
                call stopped: what was stored then is not sent again.
            allow_truncation: Cut texts over the backbone's limit instead of refusing them.

        Raises:
            CsrError: nothing was stored for as long as one call may take, or the stream was refused. Results that were
                yielded stay true; call again with the same stream_id.
        """
        state = StreamState(collection, stream_id or uuid.uuid4().hex, allow_truncation)
        return Upload(self._search.UpsertStream, state, self._timeout_seconds).results(batches)

    async def update_payloads(
        self,
        collection: str,
        ids: Sequence[str],
        payloads: Sequence[Payload | None],
        *,
        versions: Sequence[int] | None = None,
        write_id: str | None = None,
        wait: bool = False,
    ) -> WriteResult:
        """Replace payloads, None removes one; vectors stay. See upsert; a document that is not there is `missing`."""
        name = write_id or uuid.uuid4().hex
        parts = writes.update_payloads_requests(collection, ids, payloads, versions, name, wait)
        return writes.write_result([await self._retried(self._search.UpdatePayloads, part) for part in parts], name)

    async def delete(
        self,
        collection: str,
        ids: Sequence[str],
        *,
        versions: Sequence[int] | None = None,
        write_id: str | None = None,
        wait: bool = False,
    ) -> WriteResult:
        """Delete documents by id; see upsert. Unknown ids are fine."""
        name = write_id or uuid.uuid4().hex
        parts = writes.delete_requests(collection, ids, versions, name, wait)
        return writes.write_result([await self._retried(self._search.Delete, part) for part in parts], name)

    async def delete_where(
        self, collection: str, where: Where, *, version: int = 0, token: Token | None = None, wait: bool = False
    ) -> FilterDeletion:
        """Delete the documents that match a filter; one that is written meanwhile is left alone.

        When the call had to be repeated, the counts are those of its last attempt.

        Args:
            collection: Its name.
            where: What to delete, over declared fields.
            version: Of the deletions, for client-versioned collections.
            token: Documents written before it are found.
            wait: As in upsert.
        """
        request = writes.delete_where_request(collection, where, version, token, wait)
        return writes.filter_deletion(await self._retried(self._search.DeleteByFilter, request))
