"""`python -m benchmarks.service_load.encoder ADDRESS METRICS_PORT ADAPTER`: the encoder without Ray Serve and MLflow.

What it does with a request is services.encoder's; how requests arrive and are timed is as in router and index servers.
"""

import asyncio
import sys
from pathlib import Path
from typing import Any

import grpc

from benchmarks.service_load.deployment import MODEL, MODEL_VERSION
from csr.v1 import encoder_pb2, encoder_pb2_grpc
from csr_model import CSRAdapter
from services.encoder.models import LoadedModel, ModelCache
from services.encoder.registry import ModelRegistry, RegisteredVersion
from services.encoder.service import EncoderService
from services.encoder.usage import LatentUsage
from services.runtime.errors import UnknownVersion
from services.runtime.lifecycle import GrpcHost, HostOptions, until_signalled

Context = grpc.aio.ServicerContext[Any, Any]


class Unobserved:
    """Keeps no measurements beside those of the host."""

    def computed(self, stage: str, seconds: float) -> None:
        """Ignore it."""

    def encoded(self, model: LoadedModel, vectors: int) -> None:
        """Ignore it."""


class EncoderServicer(encoder_pb2_grpc.EncoderServiceServicer):
    """The gRPC face of the encoder's service."""

    def __init__(self, service: EncoderService) -> None:
        self._service = service

    async def Encode(  # noqa: N802 - the name in the proto
        self, request: encoder_pb2.EncodeRequest, context: Context
    ) -> encoder_pb2.EncodeResponse:
        """Encode."""
        return await self._service.encode(request)

    async def GetModel(  # noqa: N802
        self, request: encoder_pb2.GetModelRequest, context: Context
    ) -> encoder_pb2.GetModelResponse:
        """Describe the model."""
        return await self._service.get_model(request)


def encoder_service(adapter: CSRAdapter) -> EncoderService:
    """Return a service that has this adapter in memory as the one version of MODEL."""

    def load(name: str, version: int) -> LoadedModel:
        if (name, version) != (MODEL, MODEL_VERSION):
            raise UnknownVersion(f"model {name!r} has no version {version}")
        return LoadedModel(RegisteredVersion(name, version, "", adapter.fingerprint), adapter, usage)

    usage = LatentUsage(adapter.hidden_dim)
    registry = ModelRegistry("")  # for aliases, of which a generation has none
    return EncoderService(registry, ModelCache(load, kept=1), None, Unobserved())


async def serve(address: str, metrics_port: int, adapter: CSRAdapter) -> None:
    """Answer until told to stop."""
    host, _, port = address.rpartition(":")
    server = GrpcHost(
        HostOptions(host, int(port), metrics_port, concurrent_requests=256, drain_seconds=1.0, reflection=False)
    )
    encoder_pb2_grpc.add_EncoderServiceServicer_to_server(EncoderServicer(encoder_service(adapter)), server.server)
    await server.start([encoder_pb2.DESCRIPTOR.services_by_name["EncoderService"].full_name])
    await server.set_ready(True)
    await until_signalled()
    await server.stop()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], int(sys.argv[2]), CSRAdapter.load(Path(sys.argv[3]))))
