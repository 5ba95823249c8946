"""Is the encoder up? Asked from outside, the way a caller would reach it."""

import grpc

from csr.v1 import encoder_pb2, encoder_pb2_grpc
from services.runtime.encoder_channel import ENCODER_METADATA, HEALTHZ_METHOD


def encoder_not_ready(address: str, timeout_seconds: float = 2.0) -> str | None:
    """Return why no replica answers at host:port; None when one does.

    Ray Serve's Healthz says whether a replica is up; a call that every healthy replica refuses as INVALID_ARGUMENT
    shows that requests get through to our code.
    """
    with grpc.insecure_channel(address) as channel:
        healthz = channel.unary_unary(HEALTHZ_METHOD, request_serializer=bytes, response_deserializer=bytes)
        try:
            healthz(b"", metadata=ENCODER_METADATA, timeout=timeout_seconds)
            encoder_pb2_grpc.EncoderServiceStub(channel).GetModel(
                encoder_pb2.GetModelRequest(), metadata=ENCODER_METADATA, timeout=timeout_seconds
            )
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
                return None
            return f"{error.code().name}: {error.details()}"
    return "something else than the encoder answers"
