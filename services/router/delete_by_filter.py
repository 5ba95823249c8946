"""Deletion of everything that matches a filter, page by page, without touching what is written meanwhile."""

import uuid
from dataclasses import dataclass, field
from typing import Final

from csr.v1 import filter_pb2, search_pb2
from services.index.store.catalog import CollectionRecord
from services.index.store.writer import WriteStatus
from services.router.deadline import Deadline
from services.router.directory import Directory
from services.router.log_writes import LogWrites
from services.router.scan import Scan
from services.router.search_plan import checked_where
from services.router.tokens import token_message, token_positions
from services.router.validation import check_number
from services.router.visibility import Visibility
from services.router.write_request import deletion
from services.runtime import limits
from services.runtime.errors import CsrError, InvalidRequest, reworded

_PAGE: Final = limits.DOCUMENTS_PER_REQUEST_MAX


@dataclass
class _Progress:
    """What was done so far, whatever interrupts the rest."""

    deleted: int = 0
    skipped: int = 0
    collection_id: str = ""
    positions: dict[int, int] = field(default_factory=dict)

    def begin(self, collection_id: str) -> None:
        """Go on with a collection; with another one of the same name the positions are others."""
        if collection_id != self.collection_id:
            self.collection_id, self.positions = collection_id, {}


class DeleteByFilter:
    """Carries out DeleteByFilter; holds no state of its own."""

    def __init__(self, directory: Directory, scan: Scan, log: LogWrites, visibility: Visibility) -> None:
        self._directory = directory
        self._scan = scan
        self._log = log
        self._visibility = visibility

    async def delete(
        self, request: search_pb2.DeleteByFilterRequest, deadline: Deadline
    ) -> search_pb2.DeleteByFilterResponse:
        """Delete what matches.

        Raises:
            CsrError: naming the field and the limit, or what cannot be reached; when documents were deleted before
                it happened (such as DeadlineSpent), the text says how many. A repeat deletes the rest.
        """
        progress = _Progress()

        async def delete(record: CollectionRecord) -> search_pb2.DeleteByFilterResponse:
            where = checked_deletion(request, record)
            progress.begin(record.collection_id)
            await self._delete(record, request, where, progress, deadline)
            return search_pb2.DeleteByFilterResponse(
                deleted=progress.deleted,
                skipped=progress.skipped,
                token=token_message(record.collection_id, progress.positions),
                visible=request.wait and await self._visibility.reached(record, progress.positions, deadline),
            )

        try:
            async with deadline.enforced():
                return await self._directory.answered(request.collection, delete)
        except CsrError as error:
            if not progress.deleted:
                raise
            raise reworded(
                error, f"{error}; {progress.deleted} documents or more were deleted, repeat the request for the rest"
            ) from error

    async def _delete(
        self,
        record: CollectionRecord,
        request: search_pb2.DeleteByFilterRequest,
        where: filter_pb2.Filter,
        progress: _Progress,
        deadline: Deadline,
    ) -> None:
        self._directory.check_store()
        positions = token_positions(request.token, record)
        after, more = "", True
        while more:
            page = await self._scan.page(record, record.active, after, _PAGE, where, positions, deadline)
            if not page.versions:
                return
            # On condition of the version that matched: a document that was written since may not match any more.
            writes = [deletion(id, request.version, if_version=version) for id, version in page.versions.items()]
            written = await self._log.write(record, writes, uuid.uuid4().hex, deadline)
            applied = sum(status is WriteStatus.APPLIED for status, _ in written.outcomes)
            progress.deleted += applied
            progress.skipped += len(writes) - applied
            progress.positions.update(written.positions)
            after, more = page.last_id, page.more


def checked_deletion(request: search_pb2.DeleteByFilterRequest, record: CollectionRecord) -> filter_pb2.Filter:
    """Return the filter of what is to be deleted.

    Raises:
        InvalidRequest, LimitExceeded: no filter or a wrong one, or a version where there should be none.
    """
    where = checked_where(request, record)
    if where is None:
        raise InvalidRequest("where: needed; to remove everything, delete the collection")
    if record.versioning == "client":
        check_number("version", request.version, limits.VERSION_MAX)
    elif request.version:
        raise InvalidRequest("version: the store assigns the versions of this collection, leave it out")
    return where
