"""Queries, in whatever form they came, become codes and embeddings."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from csr.v1 import vector_pb2
from services.index.store.catalog import CollectionRecord
from services.index.store.reader import DocumentReader
from services.router.deadline import Deadline
from services.router.encoder_client import EncoderClient
from services.router.query_plan import Queries, QueryIds
from services.router.stored_vectors import embeddings_of, query_codes
from services.runtime.errors import UnknownDocument


@dataclass(frozen=True)
class QueryVectors:
    """What is searched for."""

    codes: vector_pb2.CodeBatch
    embeddings: NDArray[np.float32] | None
    """[n, input_dim]; None when queries came as codes, or the collection keeps no embeddings."""
    own_ids: Sequence[str]
    """The documents that the queries are, one per query; empty for queries of other forms."""


class QuerySource:
    """Encodes queries or reads them from the store; holds no state of its own."""

    def __init__(self, encoder: EncoderClient, reader: DocumentReader) -> None:
        self._encoder = encoder
        self._reader = reader

    async def vectors(
        self, record: CollectionRecord, queries: Queries, k_query: int, allow_truncation: bool, deadline: Deadline
    ) -> QueryVectors:
        """Return the queries by the version of the active generation.

        Raises:
            UnknownDocument: a query names a document that does not exist.
            CsrError: as the encoder or the store answers.
        """
        active = record.active
        if isinstance(queries, QueryIds):
            return await self._stored(record, queries)
        if isinstance(queries, vector_pb2.CodeBatch):
            return QueryVectors(queries, None, ())
        if isinstance(queries, vector_pb2.TextBatch):
            encoded = await self._encoder.encode_texts(active, queries, k_query, allow_truncation, deadline.remaining())
        else:
            encoded = await self._encoder.encode_embeddings(active, queries, k_query, deadline.remaining())
        return QueryVectors(encoded.codes, encoded.embeddings, ())

    async def _stored(self, record: CollectionRecord, queries: QueryIds) -> QueryVectors:
        documents = []
        for position, document in enumerate(await self._reader.get(record, queries.ids)):
            if document is None:
                place = f"{queries.field}[{position}]"
                raise UnknownDocument(f"{place}: no document {queries.ids[position]!r} in {record.name!r}")
            documents.append(document)
        embeddings = None if record.kind == "codes" else embeddings_of(record, documents).astype(np.float32)
        return QueryVectors(query_codes(record, documents), embeddings, queries.ids)
