"""The encoder as the router calls it: one version of one model, every answer checked against its fingerprint."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import grpc
import numpy as np
from numpy.typing import NDArray

from csr.v1 import encoder_pb2, encoder_pb2_grpc, vector_pb2
from services.index.store.catalog import GenerationRecord
from services.router.concurrently import concurrently
from services.runtime.channel import CHANNEL_OPTIONS
from services.runtime.codec import embeddings_from_proto, embeddings_to_proto
from services.runtime.encoder_channel import ENCODER_CHANNEL_OPTIONS, ENCODER_METADATA, HEALTHZ_METHOD
from services.runtime.errors import (
    CsrError,
    EncoderUnavailable,
    FingerprintMismatch,
    InternalError,
    PartitionUnavailable,
    error_from_rpc,
    reworded,
)
from services.runtime.lifecycle import request_metadata

_ROWS_PER_CALL: Final = 256
"""Larger batches are split, so that all replicas work on them."""


@dataclass(frozen=True)
class Encoded:
    """Codes in request order, ready to be sent on, and the embeddings they were made from."""

    codes: vector_pb2.CodeBatch
    embeddings: NDArray[np.float32]


class EncoderClient:
    """A channel to the encoder; closed by `close`."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._channel = grpc.aio.insecure_channel(address, options=[*CHANNEL_OPTIONS, *ENCODER_CHANNEL_OPTIONS])
        self._stub = encoder_pb2_grpc.EncoderServiceStub(self._channel)

    async def describe(self, model: encoder_pb2.ModelRef, timeout: float) -> encoder_pb2.GetModelResponse:
        """Resolve a version or an alias.

        Raises:
            UnknownVersion: no such model, version or alias.
            EncoderUnavailable: no replica answers.
        """
        request = encoder_pb2.GetModelRequest(model=model)
        try:
            return await self._stub.GetModel(request, timeout=timeout, metadata=_metadata())
        except grpc.aio.AioRpcError as error:
            raise _encoder_error(error) from error

    async def encode_embeddings(
        self, generation: GenerationRecord, embeddings: NDArray[np.float16], k: int, timeout: float
    ) -> Encoded:
        """Encode embeddings [n, d] with the version of a generation, k latents each.

        Raises:
            EncoderUnavailable, Overloaded, UnknownVersion: as the encoder answers.
            FingerprintMismatch: the registry holds another model under that version now.
        """
        parts = [embeddings[start : start + _ROWS_PER_CALL] for start in range(0, len(embeddings), _ROWS_PER_CALL)]
        requests = (encoder_pb2.EncodeRequest(embeddings=embeddings_to_proto(part), k=k) for part in parts)
        codes, _ = await self._encode(generation, requests, timeout)
        return Encoded(codes, embeddings.astype(np.float32))

    async def encode_texts(
        self, generation: GenerationRecord, texts: vector_pb2.TextBatch, k: int, allow_truncation: bool, timeout: float
    ) -> Encoded:
        """Encode texts; the embeddings that come back were rounded to float16 before they were encoded.

        Raises:
            LimitExceeded: a text is over the backbone's limit and allow_truncation is not set.
            WrongState: the encoder does not run the model's backbone.
            EncoderUnavailable, Overloaded, UnknownVersion, FingerprintMismatch: as for embeddings.
        """
        requests = (
            encoder_pb2.EncodeRequest(
                texts=vector_pb2.TextBatch(texts=texts.texts[start : start + _ROWS_PER_CALL]),
                k=k,
                allow_truncation=allow_truncation,
                include_embeddings=True,
            )
            for start in range(0, len(texts.texts), _ROWS_PER_CALL)
        )
        codes, responses = await self._encode(generation, requests, timeout)
        embeddings = [embeddings_from_proto(response.embeddings, "texts") for response in responses]
        return Encoded(codes, np.concatenate(embeddings))

    async def not_ready(self, timeout: float) -> str | None:
        """Return why the encoder does not answer, None when it does."""
        healthz: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(HEALTHZ_METHOD)
        try:
            await healthz(b"", timeout=timeout)
        except grpc.aio.AioRpcError as error:
            return str(_encoder_error(error))
        return None

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()

    async def _encode(
        self, generation: GenerationRecord, requests: Iterable[encoder_pb2.EncodeRequest], timeout: float
    ) -> tuple[vector_pb2.CodeBatch, list[encoder_pb2.EncodeResponse]]:
        responses = await concurrently(
            self._encode_part(generation, request, number * _ROWS_PER_CALL, timeout)
            for number, request in enumerate(requests)
        )
        batches = [response.codes for response in responses]
        joined = vector_pb2.CodeBatch(
            count=sum(batch.count for batch in batches),
            lengths=b"".join(batch.lengths for batch in batches),
            latents=b"".join(batch.latents for batch in batches),
            weights=b"".join(batch.weights for batch in batches),
            fingerprint=generation.fingerprint,
        )
        return joined, responses

    async def _encode_part(
        self, generation: GenerationRecord, request: encoder_pb2.EncodeRequest, first_row: int, timeout: float
    ) -> encoder_pb2.EncodeResponse:
        request.model.name = generation.model_name
        request.model.version = generation.model_version
        try:
            response = await self._stub.Encode(request, timeout=timeout, metadata=_metadata())
        except grpc.aio.AioRpcError as error:
            meant = _encoder_error(error)
            raise reworded(meant, f"counting from row {first_row}: {meant}" if first_row else str(meant)) from error
        if response.codes.fingerprint != generation.fingerprint:
            raise FingerprintMismatch(
                f"model {generation.model_name!r} version {generation.model_version} has fingerprint "
                f"{response.codes.fingerprint} in the registry, generation {generation.generation} was made "
                f"with {generation.fingerprint}"
            )
        rows = request.embeddings.count or len(request.texts.texts)
        if response.codes.count != rows:
            raise InternalError(f"the encoder answered {response.codes.count} codes for {rows} rows")
        return response


def _metadata() -> tuple[tuple[str, str], ...]:
    return (*ENCODER_METADATA, *request_metadata())


def _encoder_error(error: grpc.aio.AioRpcError) -> CsrError:
    """As the encoder meant it; without a name from the encoder itself, UNAVAILABLE is the connection to it."""
    meant = error_from_rpc(error)
    if isinstance(meant, PartitionUnavailable):
        return EncoderUnavailable(f"encoder: {meant}")
    return meant
