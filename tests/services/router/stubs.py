"""The router without our client: requests exactly as written."""

from dataclasses import dataclass

from csr.v1 import control_pb2_grpc, search_pb2_grpc


@dataclass(frozen=True)
class Stubs:
    """The router's services as any gRPC client sees them."""

    search: search_pb2_grpc.SearchServiceStub
    control: control_pb2_grpc.ControlServiceStub
