"""Reads of documents by id, and counts, straight from the store."""

import numpy as np

from csr.v1 import search_pb2, vector_pb2
from services.index.core.code import WEIGHT_ONE
from services.index.store.catalog import CollectionRecord
from services.index.store.entry import QuantisedCode
from services.index.store.reader import DocumentReader, StoredDocument
from services.router.directory import Directory
from services.router.tokens import token_message
from services.router.validation import check_ids
from services.runtime.codec import RaggedCodes, codes_to_proto, embeddings_to_proto
from services.runtime.errors import WrongKind

_NO_CODE = QuantisedCode(np.empty(0, np.uint16), np.empty(0, np.uint16))


class Documents:
    """Carries out Get and Count; holds no state of its own."""

    def __init__(self, directory: Directory, reader: DocumentReader) -> None:
        self._directory = directory
        self._reader = reader

    async def get(self, request: search_pb2.GetRequest) -> search_pb2.GetResponse:
        """Return the documents that exist and the ids of those that do not, both in request order.

        Raises:
            CsrError: naming the field and the limit, or what cannot be reached.
        """
        return await self._directory.answered(request.collection, lambda record: self._get(record, request))

    async def count(self, request: search_pb2.CountRequest) -> search_pb2.CountResponse:
        """Return the number of live documents.

        Raises:
            CsrError: the collection is unknown or the store cannot be reached.
        """
        return await self._directory.answered(request.collection, self._count)

    async def _get(self, record: CollectionRecord, request: search_pb2.GetRequest) -> search_pb2.GetResponse:
        check_ids(request.ids, unique=False)
        if request.include_embeddings and record.kind == "codes":
            raise WrongKind(f"include_embeddings: collection {record.name!r} is of kind codes, which keeps none")
        stored = await self._reader.get(record, request.ids)
        found = [document for document in stored if document is not None]
        return search_pb2.GetResponse(
            documents=[
                search_pb2.Document(
                    id=document.id, version=document.version, payload_json=document.body.payload.decode()
                )
                for document in found
            ],
            missing=[id for id, document in zip(request.ids, stored, strict=True) if document is None],
            embeddings=_embeddings(record, found) if request.include_embeddings else None,
            codes=_codes(record, found) if request.include_codes else None,
        )

    async def _count(self, record: CollectionRecord) -> search_pb2.CountResponse:
        heads = await self._reader.heads(record)
        positions = {head.partition: head.lsn for head in heads}
        self._directory.saw(record.collection_id, positions)
        return search_pb2.CountResponse(
            count=sum(head.documents for head in heads), token=token_message(record.collection_id, positions)
        )


def _embeddings(record: CollectionRecord, found: list[StoredDocument]) -> vector_pb2.EmbeddingBatch:
    rows = np.zeros((len(found), record.input_dim), np.float16)
    for row, document in zip(rows, found, strict=True):
        if document.body.embedding is not None:
            row[:] = document.body.embedding
    return embeddings_to_proto(rows)


def _codes(record: CollectionRecord, found: list[StoredDocument]) -> vector_pb2.CodeBatch:
    """Return the codes of the active generation; empty for documents that were not encoded for it yet."""
    active = record.active
    codes = [document.body.codes.get(active.generation, _NO_CODE) for document in found]
    empty = np.empty(0, np.uint16)
    latents = np.concatenate([empty, *(code.latents for code in codes)])
    weights = np.concatenate([empty, *(code.weights for code in codes)])
    ragged = RaggedCodes(
        np.array([len(code.latents) for code in codes], np.uint16), latents, (weights / WEIGHT_ONE).astype(np.float32)
    )
    return codes_to_proto(ragged, active.fingerprint)
