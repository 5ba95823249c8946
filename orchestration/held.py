"""Asks index servers what they hold."""

from contextlib import suppress
from typing import Any, Final

import grpc

from csr.v1 import search_pb2, shard_pb2, shard_pb2_grpc
from orchestration.doctor import Content, Held
from services.runtime import limits
from services.runtime.errors import DeadlineSpent, error_from_rpc

_ANSWER_SECONDS: Final = 60.0
"""How long it may take to go through all documents of a partition."""


async def held_by(
    channel: grpc.aio.Channel, collection_id: str, partition: int, lsn: int, patience_seconds: float
) -> Held:
    """Return what a server holds of a partition, at this position of the log or a later one if it reaches it in time.

    Args:
        channel: To the server.
        collection_id: The collection.
        partition: Its partition.
        lsn: The position.
        patience_seconds: How long the server may take to reach it.

    Raises:
        CsrError: it does not answer, or does not serve the partition.
    """
    stub = shard_pb2_grpc.ShardServiceStub(channel)
    request = shard_pb2.AuditPartitionsRequest(collection_id=collection_id, partitions=[partition])
    with suppress(DeadlineSpent):  # what it holds says how far it is behind
        await _reach(stub, collection_id, partition, lsn, patience_seconds)
    response = await _called(stub.AuditPartitions, request, _ANSWER_SECONDS)
    [audited] = response.partitions
    return Held(
        _content(audited.memory),
        _content(audited.snapshot) if audited.HasField("snapshot") else None,
        audited.snapshot_problem,
    )


async def listed_by(channel: grpc.aio.Channel, collection_id: str, generation: int, partition: int) -> dict[str, int]:
    """Return the versions of all documents of a partition by id, as a server has them.

    Raises:
        CsrError: it does not answer, or does not serve the partition.
    """
    stub = shard_pb2_grpc.ShardServiceStub(channel)
    versions: dict[str, int] = {}
    after = ""
    while True:
        request = shard_pb2.ScanPartitionsRequest(
            collection_id=collection_id,
            generation=generation,
            partitions=[partition],
            after=after,
            limit=limits.SCROLL_MAX,
        )
        page = await _called(stub.ScanPartitions, request, _ANSWER_SECONDS)
        versions.update(zip(page.ids, page.versions, strict=True))
        if len(page.ids) < limits.SCROLL_MAX:
            return versions
        after = page.ids[-1]


async def _reach(
    stub: shard_pb2_grpc.ShardServiceStub, collection_id: str, partition: int, lsn: int, seconds: float
) -> None:
    position = search_pb2.PartitionPosition(partition=partition, lsn=lsn)
    request = shard_pb2.AwaitPositionsRequest(collection_id=collection_id, positions=[position])
    await _called(stub.AwaitPositions, request, seconds)


async def _called(method: Any, request: Any, seconds: float) -> Any:
    try:
        return await method(request, timeout=seconds)
    except grpc.RpcError as error:
        raise error_from_rpc(error) from error


def _content(message: shard_pb2.ContentDigest) -> Content:
    return Content(message.lsn, message.documents, message.state_digest)
