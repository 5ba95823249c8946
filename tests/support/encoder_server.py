"""An encoder that is not Ray Serve: real adapters and a tiny deterministic backbone behind grpc.aio, in a thread."""

import asyncio
import hashlib
import threading
from collections.abc import Mapping
from typing import Any

import grpc
import numpy as np
from google.protobuf.empty_pb2 import Empty
from numpy.typing import NDArray

from csr.v1 import encoder_pb2, encoder_pb2_grpc, vector_pb2
from csr_model import CSRAdapter, CSRConfig, fit
from services.runtime.codec import RaggedCodes, codes_to_proto, embeddings_from_proto, embeddings_to_proto
from services.runtime.encoder_channel import HEALTHZ_METHOD
from services.runtime.errors import LimitExceeded, UnknownVersion
from services.runtime.lifecycle import RequestInterceptor
from tests.support.redis_server import free_port

INPUT_DIM = 16
HIDDEN_DIM = 64
LEVELS = (4, 8)
TOKENS_MAX = 16

Context = grpc.aio.ServicerContext[Any, Any]


def clustered(rows: int, seed: int) -> NDArray[np.float32]:
    """Return embeddings [rows, 16] around 12 fixed directions."""
    centres = np.random.default_rng(99).normal(size=(12, INPUT_DIM))
    random = np.random.default_rng(seed)
    labels = random.integers(len(centres), size=rows)
    return (centres[labels] + 0.35 * random.normal(size=(rows, INPUT_DIM))).astype(np.float32)


def tiny_adapter(seed: int) -> CSRAdapter:
    """Return an adapter trained for a moment."""
    config = CSRConfig.automatic(INPUT_DIM, 256, hidden_dim=HIDDEN_DIM, levels=LEVELS, epochs=1, seed=seed)
    return fit(clustered(256, seed), config=config).adapter


def embed_text(text: str) -> NDArray[np.float32]:
    """Return the embedding [16] of a text: the sum of one direction per word, whatever their order."""
    words = [hashlib.sha256(word.encode()).digest() for word in text.lower().split()]
    directions = [np.random.default_rng(list(word)).normal(size=INPUT_DIM) for word in words]
    return np.sum(directions, axis=0).astype(np.float16).astype(np.float32)


class EncoderServer:
    """Serves adapters by name and version; the highest version of a name is its champion."""

    def __init__(self, adapters: Mapping[tuple[str, int], CSRAdapter]) -> None:
        self.adapters = dict(adapters)
        self.port = free_port()
        self._thread: threading.Thread | None = None
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()

    @property
    def address(self) -> str:
        """host:port of the gRPC server."""
        return f"127.0.0.1:{self.port}"

    @property
    def running(self) -> bool:
        """Whether it was started and not stopped."""
        return self._thread is not None

    def start(self) -> None:
        """Answer from a thread of its own."""
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(started,), daemon=True)
        self._thread.start()
        assert started.wait(10), "the encoder started"

    def stop(self) -> None:
        """Drop all connections; start brings it back on the same port."""
        if self._thread is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(10)
            self._thread = None

    def _run(self, started: threading.Event) -> None:
        self._loop = asyncio.new_event_loop()
        self._loop.run_until_complete(self._serve(started))
        self._loop.close()

    async def _serve(self, started: threading.Event) -> None:
        self._stop = asyncio.Event()
        server = grpc.aio.server(interceptors=[RequestInterceptor(concurrent_requests=64)])
        encoder_pb2_grpc.add_EncoderServiceServicer_to_server(_Servicer(self.adapters), server)
        service, _, method = HEALTHZ_METHOD[1:].partition("/")
        healthz = grpc.unary_unary_rpc_method_handler(
            _healthy, request_deserializer=Empty.FromString, response_serializer=Empty.SerializeToString
        )
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: healthz}),))
        server.add_insecure_port(self.address)
        await server.start()
        started.set()
        await self._stop.wait()
        await server.stop(None)


async def _healthy(request: Empty, context: Context) -> Empty:
    return Empty()


class _Servicer(encoder_pb2_grpc.EncoderServiceServicer):
    def __init__(self, adapters: dict[tuple[str, int], CSRAdapter]) -> None:
        self._adapters = adapters

    async def Encode(  # noqa: N802
        self, request: encoder_pb2.EncodeRequest, context: Context
    ) -> encoder_pb2.EncodeResponse:
        version, adapter = self._find(request.model)
        if request.HasField("texts"):
            for position, text in enumerate(request.texts.texts):
                if len(text.split()) > TOKENS_MAX and not request.allow_truncation:
                    raise LimitExceeded(f"texts[{position}] has {len(text.split())} tokens, the limit is {TOKENS_MAX}")
            texts = [" ".join(text.split()[:TOKENS_MAX]) for text in request.texts.texts]
            embeddings = np.stack([embed_text(text) for text in texts])
        else:
            embeddings = embeddings_from_proto(request.embeddings, "embeddings", adapter.input_dim)
        codes = adapter.encode(embeddings, request.k or adapter.k_max)
        return encoder_pb2.EncodeResponse(
            codes=codes_to_proto(RaggedCodes.from_padded(codes.latents, codes.weights), adapter.fingerprint),
            model=vector_pb2.ModelVersion(name=request.model.name, version=version, fingerprint=adapter.fingerprint),
            embeddings=embeddings_to_proto(embeddings) if request.include_embeddings else None,
        )

    async def GetModel(  # noqa: N802
        self, request: encoder_pb2.GetModelRequest, context: Context
    ) -> encoder_pb2.GetModelResponse:
        version, adapter = self._find(request.model)
        return encoder_pb2.GetModelResponse(
            model=vector_pb2.ModelVersion(name=request.model.name, version=version, fingerprint=adapter.fingerprint),
            input_dim=adapter.input_dim,
            hidden_dim=adapter.hidden_dim,
            k_max=adapter.k_max,
            trained_k=adapter.levels,
            accepts_texts=True,
        )

    def _find(self, model: encoder_pb2.ModelRef) -> tuple[int, CSRAdapter]:
        versions = [version for name, version in self._adapters if name == model.name]
        version = model.version or max(versions, default=0)
        if version not in versions:
            raise UnknownVersion(f"model {model.name!r} has no version {version or model.alias}")
        return version, self._adapters[model.name, version]
