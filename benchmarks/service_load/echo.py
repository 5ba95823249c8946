"""`python -m benchmarks.service_load.echo ADDRESS FOLDER`: what gRPC costs by itself.

A bare grpc.aio server that reads a SearchRequest and answers with the SearchResponse of its collection, a file of that
name in the folder: the same messages as a search, and nothing in between.
"""

import asyncio
import sys
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer

from csr.v1 import search_pb2
from services.runtime.lifecycle import until_signalled

Context = grpc.aio.ServicerContext[Any, Any]


async def serve(address: str, folder: Path) -> None:
    """Answer until told to stop."""
    answers = {file.name: search_pb2.SearchResponse.FromString(file.read_bytes()) for file in folder.iterdir()}

    async def search(request: search_pb2.SearchRequest, context: Context) -> search_pb2.SearchResponse:
        return answers[request.collection]

    method = grpc.unary_unary_rpc_method_handler(
        search,
        request_deserializer=search_pb2.SearchRequest.FromString,
        response_serializer=search_pb2.SearchResponse.SerializeToString,
    )
    service = search_pb2.DESCRIPTOR.services_by_name["SearchService"].full_name
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Search": method}),))
    health = HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    await health.set("", health_pb2.HealthCheckResponse.SERVING)
    server.add_insecure_port(address)
    await server.start()
    await until_signalled()
    await server.stop(1.0)


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], Path(sys.argv[2])))
