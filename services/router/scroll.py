"""Scroll: all documents of a collection, page by page."""

from csr.v1 import search_pb2
from services.index.store.catalog import CollectionRecord, GenerationRecord
from services.router.cursor import Cursor, scrolled_generation
from services.router.deadline import Deadline
from services.router.directory import Directory
from services.router.hit_documents import HitDocuments
from services.router.receipts import receipt_message
from services.router.scan import Page, Scan
from services.router.search_plan import checked_where
from services.router.tokens import token_positions
from services.router.validation import check_number
from services.runtime import limits


class Scroll:
    """Carries out Scroll; holds no state of its own, the place is in the cursor."""

    def __init__(self, directory: Directory, scan: Scan, documents: HitDocuments) -> None:
        self._directory = directory
        self._scan = scan
        self._documents = documents

    async def page(self, request: search_pb2.ScrollRequest, deadline: Deadline) -> search_pb2.ScrollResponse:
        """Return one page.

        Raises:
            CsrError: naming the field and the limit, or what cannot be reached.
        """
        return await self._directory.answered(request.collection, lambda record: self._page(record, request, deadline))

    async def _page(
        self, record: CollectionRecord, request: search_pb2.ScrollRequest, deadline: Deadline
    ) -> search_pb2.ScrollResponse:
        check_number("limit", request.limit, limits.SCROLL_MAX)
        where = checked_where(request, record)
        generation, after = scrolled_generation(request.cursor, record)
        positions = token_positions(request.token, record)
        page = await self._scan.page(record, generation, after, request.limit, where, positions, deadline)
        response = search_pb2.ScrollResponse(
            next_cursor=_next_cursor(record, generation, page),
            receipt=receipt_message(record, generation, page.positions, page.staleness_seconds),
        )
        if request.include_payloads:
            stored = await self._documents.payloads(record, dict.fromkeys(page.versions, 1), deadline)
            response.receipt.payloads_missing = stored.missing
        for id, version in page.versions.items():
            document = response.documents.add(id=id, version=version)
            if request.include_payloads and id in stored.payloads:
                # Of one state: the payload may be younger than the page.
                document.version, document.payload_json = stored.versions[id], stored.payloads[id]
        return response


def _next_cursor(record: CollectionRecord, generation: GenerationRecord, page: Page) -> str:
    if not page.more:
        return ""
    return Cursor(record.collection_id, generation.generation, page.last_id).encode()
