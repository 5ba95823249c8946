"""A blocking connection to a router."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc

from csr.v1 import control_pb2_grpc, search_pb2_grpc
from services.client.retry import Budget
from services.runtime.channel import CHANNEL_OPTIONS
from services.runtime.errors import error_from_rpc

Response = TypeVar("Response")


class Connection:
    """A channel to a router, and how calls over it are repeated."""

    def __init__(self, address: str, timeout_seconds: float = 30.0) -> None:
        """Create a client; it connects at the first call.

        Args:
            address: host:port of a router.
            timeout_seconds: Longest that one call takes, retries included. A write of many documents is sent as
                several requests, each with this time; of an upsert stream it is the longest time without progress.
        """
        self._channel = grpc.insecure_channel(address, options=CHANNEL_OPTIONS)
        self._search = search_pb2_grpc.SearchServiceStub(self._channel)
        self._control = control_pb2_grpc.ControlServiceStub(self._channel)
        self._timeout_seconds = timeout_seconds

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def _retried(self, method: Callable[..., Response], request: Any) -> Response:
        budget = Budget(self._timeout_seconds)
        while True:
            try:
                return method(request, timeout=budget.remaining())
            except grpc.RpcError as error:
                pause = budget.pause(error_from_rpc(error))
            time.sleep(pause)

    def _once(self, method: Callable[..., Response], request: Any) -> Response:
        try:
            return method(request, timeout=self._timeout_seconds)
        except grpc.RpcError as error:
            raise error_from_rpc(error) from error
