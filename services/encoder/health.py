"""Is the encoder up? Asked from outside, the way a caller would reach it."""

import grpc

from csr.v1 import encoder_pb2, encoder_pb2_grpc
from services.runtime.encoder_channel import ENCODER_METADATA, HEALTHZ_METHOD

_TIMEOUT_SECONDS = 2.0


def encoder_not_ready(address: str) -> str | None:
    """Return why the encoder does not serve at host:port; None when it does.

    Healthz is fine before anything is deployed, too; so a request that every replica refuses has to get through.
    """
    with grpc.insecure_channel(address) as channel:
        try:
            _healthz(channel)
            encoder_pb2_grpc.EncoderServiceStub(channel).GetModel(
                encoder_pb2.GetModelRequest(), metadata=ENCODER_METADATA, timeout=_TIMEOUT_SECONDS
            )
        except grpc.RpcError as error:
            return None if error.code() is grpc.StatusCode.INVALID_ARGUMENT else _reason(error)
    return "something else than the encoder answers"


def replicas_down(address: str) -> str | None:
    """Return why no replica of a deployed encoder is healthy; None when one is. Leaves no trace in its metrics."""
    with grpc.insecure_channel(address) as channel:
        try:
            _healthz(channel)
        except grpc.RpcError as error:
            return _reason(error)
    return None


def _healthz(channel: grpc.Channel) -> None:
    call = channel.unary_unary(HEALTHZ_METHOD, request_serializer=bytes, response_deserializer=bytes)
    call(b"", metadata=ENCODER_METADATA, timeout=_TIMEOUT_SECONDS)


def _reason(error: grpc.RpcError) -> str:
    return f"{error.code().name}: {error.details()}"
