"""An upsert stream beneath its connections: which chunks wait to be sent, and which for their answer. No I/O."""

from collections import deque
from dataclasses import dataclass
from typing import Final

import grpc

from csr.v1 import search_pb2
from services.client.arguments import check_texts
from services.client.tokens import joined
from services.client.types import Batch, BatchResult, DocumentWrite
from services.client.writes import Upsert, document_writes
from services.runtime.errors import CsrError, DeadlineSpent, InternalError, PartitionUnavailable, error_from_rpc

CHUNKS_IN_FLIGHT_MAX: Final = 4
"""As many as a server works on at a time: more would only wait in buffers."""

_BROKE_WHILE_SENDING: Final = "Internal error from Core"
"""What gRPC reports in place of the server's status, when a call ended while a message was being sent."""


@dataclass(frozen=True)
class _Chunk:
    message: search_pb2.UpsertChunk
    ends_batch: bool


def broken(error: grpc.RpcError) -> CsrError:
    """Return the error behind a connection that ended; what makes another one worth while is UNAVAILABLE.

    A stream has no deadline, so one that was missed is the server's own: it ends streams that pause for long.
    """
    meant = error_from_rpc(error)
    if isinstance(meant, DeadlineSpent) or str(meant) == _BROKE_WHILE_SENDING:
        return PartitionUnavailable(f"the upsert stream broke: {meant}")
    return meant


class StreamState:
    """One stream, over any number of connections.

    Chunks that an earlier call stored are never built. Those that this one sent and saw no answer to are sent again
    after a reconnection, also when the server says that they are stored: it answers them with their first results.
    """

    def __init__(self, collection: str, stream_id: str, allow_truncation: bool) -> None:
        check_texts("stream_id", [stream_id])
        self.opening = search_pb2.UpsertStreamRequest(
            open=search_pb2.UpsertStreamOpen(
                collection=collection, stream_id=stream_id, allow_truncation=allow_truncation
            )
        )
        self._stored: int | None = None
        self._numbered = 0
        self._waiting: deque[_Chunk] = deque()
        self._sent: deque[_Chunk] = deque()
        self._results: list[DocumentWrite | None] = []
        self._tokens: list[search_pb2.Token] = []

    @property
    def waiting(self) -> bool:
        """Whether chunks are left to send."""
        return bool(self._waiting)

    @property
    def unanswered(self) -> bool:
        """Whether the answer to a chunk is missing."""
        return bool(self._waiting or self._sent)

    def opened(self, response: search_pb2.UpsertStreamResponse) -> None:
        """Take the answer to the opening of a connection."""
        if self._stored is None:
            self._stored = response.sequence
        self._waiting.extendleft(reversed(self._sent))
        self._sent.clear()

    def add(self, batch: Batch) -> BatchResult | None:
        """Cut a batch into chunks; return its result if all of it was stored by an earlier run.

        Raises:
            InvalidRequest: the batch contradicts itself; nothing of it is sent.
        """
        assert self._stored is not None, "the stream was opened"
        upsert = Upsert(batch)
        for rows in upsert.slices:
            self._numbered += 1
            if self._numbered <= self._stored:
                self._results += [None] * (rows.stop - rows.start)
            else:
                message = upsert.put(search_pb2.UpsertChunk(sequence=self._numbered), rows)
                self._waiting.append(_Chunk(message, rows is upsert.slices[-1]))
        return self._batch_result() if self._numbered <= self._stored else None

    def take(self) -> search_pb2.UpsertStreamRequest | None:
        """Return the next message to send, None when there is none or enough are on their way."""
        if not self._waiting or len(self._sent) == CHUNKS_IN_FLIGHT_MAX:
            return None
        self._sent.append(self._waiting.popleft())
        return search_pb2.UpsertStreamRequest(chunk=self._sent[-1].message)

    def answered(self, response: search_pb2.UpsertStreamResponse) -> BatchResult | None:
        """Take the answer to a chunk; return the result of its batch if that is complete.

        Raises:
            InternalError: the answer is to another chunk, or does not have one result per document.
        """
        if not self._sent or response.sequence != self._sent[0].message.sequence:
            raise InternalError(f"the server answered to chunk {response.sequence}, which was not next")
        chunk = self._sent.popleft()
        if len(response.results) != len(chunk.message.ids):
            raise InternalError(
                f"the server sent {len(response.results)} results for {len(chunk.message.ids)} documents"
            )
        self._results += document_writes(response.results)
        self._tokens.append(response.token)
        return self._batch_result() if chunk.ends_batch else None

    def _batch_result(self) -> BatchResult:
        result = BatchResult(self._results, joined(self._tokens) if self._tokens else None)
        self._results, self._tokens = [], []
        return result
