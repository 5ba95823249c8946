"""Bulk upserts: how many documents a second are durable, and how many can be found."""

import asyncio
import time
from collections.abc import Sequence
from typing import Final

import grpc
import numpy as np

from benchmarks.service_load.outcome import Writing
from csr.v1 import control_pb2, control_pb2_grpc, search_pb2, search_pb2_grpc
from services.runtime.channel import CHANNEL_OPTIONS

IN_FLIGHT: Final = 4
"""Requests that wait for their answers at any time, as in a stream of the service."""
_REQUEST_SECONDS: Final = 120.0
_POLL_SECONDS: Final = 0.05


def write(address: str, form: str, requests: Sequence[search_pb2.UpsertRequest]) -> Writing:
    """Send all requests to a router and wait until their documents can be found.

    Raises:
        RuntimeError: a document was not stored.
    """
    return asyncio.run(_write(address, form, requests))


async def _write(address: str, form: str, requests: Sequence[search_pb2.UpsertRequest]) -> Writing:
    seconds: list[float] = []
    waiting = iter(requests)

    async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        stub = search_pb2_grpc.SearchServiceStub(channel)

        async def lane() -> None:
            for request in waiting:
                sent = time.perf_counter()
                response = await stub.Upsert(request, timeout=_REQUEST_SECONDS)
                seconds.append(time.perf_counter() - sent)
                if any(result.status != search_pb2.WRITE_STATUS_APPLIED for result in response.results):
                    raise RuntimeError(f"{request.collection}: a document was not stored")

        started = time.perf_counter()
        await asyncio.gather(*(lane() for _ in range(IN_FLIGHT)))
        acknowledged = time.perf_counter() - started
        documents = sum(len(request.ids) for request in requests)
        await _until_visible(channel, requests[0].collection, documents)
        visible = time.perf_counter() - started
    request_ms = 1_000 * float(np.median(seconds))
    return Writing(form, documents, len(requests[0].ids), IN_FLIGHT, acknowledged, visible, request_ms)


async def _until_visible(channel: grpc.aio.Channel, collection: str, documents: int) -> None:
    stub = control_pb2_grpc.ControlServiceStub(channel)
    request = control_pb2.DescribeCollectionRequest(name=collection)
    while True:
        found = await stub.DescribeCollection(request, timeout=_REQUEST_SECONDS)
        if found.documents != documents:
            raise RuntimeError(f"{collection}: {found.documents} documents where {documents} were written")
        if all(partition.ready and partition.visible_lsn >= partition.lsn for partition in found.partitions):
            return
        await asyncio.sleep(_POLL_SECONDS)
