"""SearchService: documents and queries. Translates and delegates."""

from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from csr.v1 import search_pb2, search_pb2_grpc
from services.router.deadline import Deadline
from services.router.documents import Documents
from services.router.search_path import SearchPath
from services.router.write_path import WritePath
from services.runtime import limits
from services.runtime.errors import LimitExceeded

Context = grpc.aio.ServicerContext[Any, Any]
Response = TypeVar("Response", bound=Message)


class SearchServicer(search_pb2_grpc.SearchServiceServicer):
    """Gives every request its deadline and hands it on."""

    def __init__(
        self, writes: WritePath, documents: Documents, searches: SearchPath, default_deadline_seconds: float
    ) -> None:
        self._writes = writes
        self._documents = documents
        self._searches = searches
        self._default_deadline_seconds = default_deadline_seconds

    async def Upsert(  # noqa: N802 - the name in the proto
        self, request: search_pb2.UpsertRequest, context: Context
    ) -> search_pb2.UpsertResponse:
        """Store documents."""
        deadline = Deadline.of(context, self._default_deadline_seconds)
        async with deadline.enforced():
            return await self._writes.upsert(request, deadline)

    async def Delete(  # noqa: N802
        self, request: search_pb2.DeleteRequest, context: Context
    ) -> search_pb2.DeleteResponse:
        """Delete documents by id."""
        async with Deadline.of(context, self._default_deadline_seconds).enforced():
            return await self._writes.delete(request)

    async def Get(self, request: search_pb2.GetRequest, context: Context) -> search_pb2.GetResponse:  # noqa: N802
        """Read documents by id."""
        async with Deadline.of(context, self._default_deadline_seconds).enforced():
            return _within_limit(await self._documents.get(request), "ids")

    async def Count(  # noqa: N802
        self, request: search_pb2.CountRequest, context: Context
    ) -> search_pb2.CountResponse:
        """Count live documents."""
        async with Deadline.of(context, self._default_deadline_seconds).enforced():
            return await self._documents.count(request)

    async def Search(  # noqa: N802
        self, request: search_pb2.SearchRequest, context: Context
    ) -> search_pb2.SearchResponse:
        """Find the exact top_n documents for each query."""
        deadline = Deadline.of(context, self._default_deadline_seconds)
        async with deadline.enforced():
            return _within_limit(await self._searches.search(request, deadline), "top_n")


def _within_limit(response: Response, field: str) -> Response:
    size = response.ByteSize()
    if size > limits.RESPONSE_BYTES_MAX:
        raise LimitExceeded(
            f"{field}: the answer has {size} bytes, at most {limits.RESPONSE_BYTES_MAX} are sent, ask for less"
        )
    return response
