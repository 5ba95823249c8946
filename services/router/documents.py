"""Reads of documents by id, straight from the store."""

from csr.v1 import search_pb2
from services.index.store.catalog import CollectionRecord
from services.index.store.reader import DocumentReader
from services.router.directory import Directory
from services.router.stored_vectors import codes_message, embeddings_message
from services.router.validation import check_ids
from services.runtime.errors import WrongKind


class Documents:
    """Carries out Get; holds no state of its own."""

    def __init__(self, directory: Directory, reader: DocumentReader) -> None:
        self._directory = directory
        self._reader = reader

    async def get(self, request: search_pb2.GetRequest) -> search_pb2.GetResponse:
        """Return the documents that exist and the ids of those that do not, both in request order.

        Raises:
            CsrError: naming the field and the limit, or what cannot be reached.
        """
        return await self._directory.answered(request.collection, lambda record: self._get(record, request))

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
            embeddings=embeddings_message(record, found) if request.include_embeddings else None,
            codes=codes_message(record, found) if request.include_codes else None,
        )
