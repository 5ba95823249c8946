"""ControlService: collections and the state of the deployment. Translates and delegates."""

from typing import Any

import grpc
import structlog

from csr.v1 import control_pb2, control_pb2_grpc
from services.index.store.reader import DocumentReader
from services.router.collection_request import (
    check_create,
    collection_message,
    model_ref,
    new_codes_record,
    new_dense_record,
)
from services.router.deadline import Deadline
from services.router.directory import Directory
from services.router.encoder_client import EncoderClient
from services.router.status import StatusReport

log = structlog.get_logger()

Context = grpc.aio.ServicerContext[Any, Any]


class ControlServicer(control_pb2_grpc.ControlServiceServicer):
    """Answers about collections from the store itself, not from what the router remembers."""

    def __init__(
        self,
        directory: Directory,
        encoder: EncoderClient,
        reader: DocumentReader,
        status: StatusReport,
        default_deadline_seconds: float,
    ) -> None:
        self._directory = directory
        self._encoder = encoder
        self._reader = reader
        self._status = status
        self._default_deadline_seconds = default_deadline_seconds

    async def CreateCollection(  # noqa: N802 - the name in the proto
        self, request: control_pb2.CreateCollectionRequest, context: Context
    ) -> control_pb2.CreateCollectionResponse:
        """Create a collection; of kind dense with the model's dimensions from the encoder."""
        deadline = Deadline.of(context, self._default_deadline_seconds)
        async with deadline.enforced():
            check_create(request)
            if request.kind == control_pb2.COLLECTION_KIND_DENSE:
                described = await self._encoder.describe(model_ref(request), deadline.remaining())
                record = new_dense_record(request, described)
            else:
                record = new_codes_record(request)
            await self._directory.catalog.create(record)
        log.info("collection created", collection=record.name, collection_id=record.collection_id)
        return control_pb2.CreateCollectionResponse(collection=collection_message(record))

    async def DescribeCollection(  # noqa: N802
        self, request: control_pb2.DescribeCollectionRequest, context: Context
    ) -> control_pb2.DescribeCollectionResponse:
        """Describe a collection: its record, and per partition the store beside the index servers."""
        async with Deadline.of(context, self._default_deadline_seconds).enforced():
            record = await self._directory.catalog.get(request.name)
            heads = await self._reader.heads(record)
            return control_pb2.DescribeCollectionResponse(
                collection=collection_message(record),
                documents=sum(head.documents for head in heads),
                partitions=await self._status.partitions(record, heads),
                appendfsync=self._directory.policy.appendfsync,
            )

    async def ListCollections(  # noqa: N802
        self, request: control_pb2.ListCollectionsRequest, context: Context
    ) -> control_pb2.ListCollectionsResponse:
        """List all collections by name."""
        async with Deadline.of(context, self._default_deadline_seconds).enforced():
            records = await self._directory.catalog.list()
            return control_pb2.ListCollectionsResponse(collections=[collection_message(record) for record in records])

    async def DeleteCollection(  # noqa: N802
        self, request: control_pb2.DeleteCollectionRequest, context: Context
    ) -> control_pb2.DeleteCollectionResponse:
        """Delete a collection."""
        async with Deadline.of(context, self._default_deadline_seconds).enforced():
            record = await self._directory.catalog.delete(request.name)
        self._directory.forget(record)
        log.info("collection deleted", collection=record.name, collection_id=record.collection_id)
        return control_pb2.DeleteCollectionResponse(collection_id=record.collection_id)

    async def GetStatus(  # noqa: N802
        self, request: control_pb2.GetStatusRequest, context: Context
    ) -> control_pb2.GetStatusResponse:
        """Tell which processes can be reached."""
        async with Deadline.of(context, self._default_deadline_seconds).enforced():
            return await self._status.deployment()
