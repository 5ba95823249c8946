"""SearchService: documents and queries. Translates and delegates."""

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from csr.v1 import search_pb2, search_pb2_grpc
from services.router.counts import Counts
from services.router.deadline import Deadline
from services.router.delete_by_filter import DeleteByFilter
from services.router.documents import Documents
from services.router.explain import Explain
from services.router.scroll import Scroll
from services.router.search_path import SearchPath
from services.router.upsert_stream import UpsertStream
from services.router.write_path import WritePath
from services.runtime import limits
from services.runtime.errors import LimitExceeded

Context = grpc.aio.ServicerContext[Any, Any]
Response = TypeVar("Response", bound=Message)


@dataclass(frozen=True)
class Features:
    """What the service can do."""

    writes: WritePath
    streams: UpsertStream
    deletions: DeleteByFilter
    documents: Documents
    counts: Counts
    scroll: Scroll
    searches: SearchPath
    explanations: Explain


class SearchServicer(search_pb2_grpc.SearchServiceServicer):
    """Gives every request its deadline and hands it on."""

    def __init__(self, features: Features, default_deadline_seconds: float) -> None:
        self._features = features
        self._default_deadline_seconds = default_deadline_seconds

    async def Upsert(  # noqa: N802 - the name in the proto
        self, request: search_pb2.UpsertRequest, context: Context
    ) -> search_pb2.UpsertResponse:
        """Store documents."""
        deadline = self._deadline(context)
        async with deadline.enforced():
            return await self._features.writes.upsert(request, deadline)

    async def UpsertStream(  # noqa: N802
        self, request_iterator: AsyncIterator[search_pb2.UpsertStreamRequest], context: Context
    ) -> AsyncGenerator[search_pb2.UpsertStreamResponse, None]:
        """Store any number of documents; the whole of it has no deadline unless the caller sets one."""
        async for response in self._features.streams.answers(request_iterator):
            yield response

    async def UpdatePayloads(  # noqa: N802
        self, request: search_pb2.UpdatePayloadsRequest, context: Context
    ) -> search_pb2.UpdatePayloadsResponse:
        """Replace payloads."""
        deadline = self._deadline(context)
        async with deadline.enforced():
            return await self._features.writes.update_payloads(request, deadline)

    async def Delete(  # noqa: N802
        self, request: search_pb2.DeleteRequest, context: Context
    ) -> search_pb2.DeleteResponse:
        """Delete documents by id."""
        deadline = self._deadline(context)
        async with deadline.enforced():
            return await self._features.writes.delete(request, deadline)

    async def DeleteByFilter(  # noqa: N802
        self, request: search_pb2.DeleteByFilterRequest, context: Context
    ) -> search_pb2.DeleteByFilterResponse:
        """Delete what matches a filter; it keeps its deadline itself, to tell how far it came."""
        return await self._features.deletions.delete(request, self._deadline(context))

    async def Get(self, request: search_pb2.GetRequest, context: Context) -> search_pb2.GetResponse:  # noqa: N802
        """Read documents by id."""
        async with self._deadline(context).enforced():
            return _within_limit(await self._features.documents.get(request), "ids")

    async def Count(  # noqa: N802
        self, request: search_pb2.CountRequest, context: Context
    ) -> search_pb2.CountResponse:
        """Count live documents."""
        deadline = self._deadline(context)
        async with deadline.enforced():
            return await self._features.counts.count(request, deadline)

    async def Scroll(  # noqa: N802
        self, request: search_pb2.ScrollRequest, context: Context
    ) -> search_pb2.ScrollResponse:
        """List documents by id."""
        deadline = self._deadline(context)
        async with deadline.enforced():
            return _within_limit(await self._features.scroll.page(request, deadline), "limit")

    async def Search(  # noqa: N802
        self, request: search_pb2.SearchRequest, context: Context
    ) -> search_pb2.SearchResponse:
        """Find the exact top_n documents for each query."""
        deadline = self._deadline(context)
        async with deadline.enforced():
            return _within_limit(await self._features.searches.search(request, deadline), "top_n")

    async def Explain(  # noqa: N802
        self, request: search_pb2.ExplainRequest, context: Context
    ) -> search_pb2.ExplainResponse:
        """Say which latents make up scores."""
        deadline = self._deadline(context)
        async with deadline.enforced():
            return await self._features.explanations.explain(request, deadline)

    def _deadline(self, context: Context) -> Deadline:
        return Deadline.of(context, self._default_deadline_seconds)


def _within_limit(response: Response, field: str) -> Response:
    size = response.ByteSize()
    if size > limits.RESPONSE_BYTES_MAX:
        raise LimitExceeded(
            f"{field}: the answer has {size} bytes, at most {limits.RESPONSE_BYTES_MAX} are sent, ask for less"
        )
    return response
