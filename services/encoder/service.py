"""What the encoder does with a request, apart from how it arrives."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from csr.v1 import encoder_pb2, vector_pb2
from csr_model.errors import InvalidVector as UncodableVector
from services.encoder.backbone import TextBackbone
from services.encoder.models import LoadedModel, ModelCache
from services.encoder.registry import ModelRegistry
from services.runtime import limits
from services.runtime.codec import RaggedCodes, codes_to_proto, embeddings_from_proto, embeddings_to_proto
from services.runtime.errors import InvalidRequest, InvalidVector, LimitExceeded, WrongState

Result = TypeVar("Result")


class Observer(Protocol):
    """Where measurements go."""

    def computed(self, stage: str, seconds: float) -> None:
        """Time one batch in the backbone or the adapter."""

    def encoded(self, model: LoadedModel, vectors: int) -> None:
        """Count vectors of a model."""


class EncoderService:
    """Encode and GetModel over protobuf messages.

    The event loop only moves messages: registry look-ups, text embedding and encoding each have a thread. One thread
    each, because requests arrive in batches that already fill the cores, tokenisers are not safe to share, and a
    slow batch of texts must not hold up embeddings.
    """

    def __init__(
        self, registry: ModelRegistry, models: ModelCache, backbone: TextBackbone | None, observer: Observer
    ) -> None:
        self._registry = registry
        self._models = models
        self._backbone = backbone
        self._observer = observer
        self._lookups = ThreadPoolExecutor(1, thread_name_prefix="registry")
        self._adapters = ThreadPoolExecutor(1, thread_name_prefix="encode")
        self._texts = ThreadPoolExecutor(1, thread_name_prefix="embed")

    async def encode(self, request: encoder_pb2.EncodeRequest) -> encoder_pb2.EncodeResponse:
        """Answer Encode.

        Raises:
            InvalidRequest, InvalidVector, LimitExceeded: the request breaks the contract in encoder.proto.
            UnknownVersion, CorruptRecord, RegistryUnavailable: as load_model.
            WrongState: texts for a model whose backbone this encoder does not run; or as load_model.
        """
        size = request.ByteSize()
        if size > limits.REQUEST_BYTES_MAX:
            raise LimitExceeded(f"request: {size} bytes, at most {limits.REQUEST_BYTES_MAX} are allowed")
        kind = request.WhichOneof("input")
        if kind is None:
            raise InvalidRequest("input: embeddings or texts are needed")
        count = request.embeddings.count if kind == "embeddings" else len(request.texts.texts)
        if count > limits.VECTORS_PER_ENCODE_MAX:
            raise LimitExceeded(f"{kind}: {count} rows, at most {limits.VECTORS_PER_ENCODE_MAX} are allowed")
        model = await self._model(request.model)
        k = _checked_k(request.k, model)
        response = encoder_pb2.EncodeResponse(model=_version_of(model))
        source = partial(embeddings_from_proto, request.embeddings, "embeddings", model.adapter.input_dim)
        if kind == "texts":
            embedded = await self._embed(request, model, response)
            source = partial(np.asarray, embedded)
        embeddings, codes = await self._timed("encode", self._adapters, lambda: _encoded(model, source(), k))
        model.usage.observe(codes.latents)
        self._observer.encoded(model, count)
        response.codes.CopyFrom(codes_to_proto(codes, model.adapter.fingerprint))
        if request.include_embeddings:
            response.embeddings.CopyFrom(embeddings_to_proto(embeddings))
        return response

    async def get_model(self, request: encoder_pb2.GetModelRequest) -> encoder_pb2.GetModelResponse:
        """Answer GetModel; loads the version, so that what is described can also encode.

        Raises:
            InvalidRequest: no model named.
            UnknownVersion, CorruptRecord, RegistryUnavailable: as load_model.
        """
        model = await self._model(request.model)
        adapter = model.adapter
        return encoder_pb2.GetModelResponse(
            model=_version_of(model),
            input_dim=adapter.input_dim,
            hidden_dim=adapter.hidden_dim,
            k_max=adapter.k_max,
            trained_k=adapter.levels,
            backbone=adapter.manifest.backbone or "",
            accepts_texts=self._runs_backbone_of(model),
        )

    async def _model(self, reference: encoder_pb2.ModelRef) -> LoadedModel:
        if not reference.name:
            raise InvalidRequest("model.name: empty, name a registered model")
        for field, value in (("name", reference.name), ("alias", reference.alias)):
            if (size := len(value.encode())) > limits.MODEL_NAME_BYTES_MAX:
                raise LimitExceeded(f"model.{field}: {size} bytes, at most {limits.MODEL_NAME_BYTES_MAX} are allowed")
        selector = reference.WhichOneof("selector")
        if selector is None:
            raise InvalidRequest("model: a version or an alias is needed")
        version = reference.version
        if selector == "alias":
            look_up = asyncio.get_running_loop().run_in_executor
            version = await look_up(self._lookups, self._registry.resolve, reference.name, reference.alias)
        return await self._models.get(reference.name, version)

    async def _embed(
        self, request: encoder_pb2.EncodeRequest, model: LoadedModel, response: encoder_pb2.EncodeResponse
    ) -> npt.NDArray[np.float32]:
        backbone = self._backbone
        if backbone is None:
            raise WrongState("texts: this encoder runs no backbone (setting encoder.backbone), send embeddings")
        if not self._runs_backbone_of(model):
            raise WrongState(
                f"texts: model {model.registered.name!r} version {model.registered.version} was trained on "
                f"{model.adapter.manifest.backbone or 'an unknown backbone'}, this encoder runs {backbone.name}"
            )
        texts = _checked_texts(request.texts)
        embedded = await self._timed("embed", self._texts, lambda: backbone.embed(texts, request.allow_truncation))
        response.token_counts.extend(embedded.token_counts.tolist())
        response.truncated.extend(np.flatnonzero(embedded.truncated).tolist())
        # Collections keep float16: encode what they will keep, so that a stored embedding gives the stored code.
        return embedded.embeddings.astype(np.float16).astype(np.float32)

    def _runs_backbone_of(self, model: LoadedModel) -> bool:
        return self._backbone is not None and self._backbone.name == model.adapter.manifest.backbone

    async def _timed(self, stage: str, executor: ThreadPoolExecutor, compute: Callable[[], Result]) -> Result:
        def timed() -> tuple[Result, float]:
            started = time.perf_counter()
            return compute(), time.perf_counter() - started

        result, seconds = await asyncio.get_running_loop().run_in_executor(executor, timed)
        self._observer.computed(stage, seconds)
        return result


def _checked_k(k: int, model: LoadedModel) -> int:
    largest = min(model.adapter.k_limit, limits.K_QUERY_MAX)
    if k > largest:
        raise LimitExceeded(
            f"k: {k}, model {model.registered.name!r} version {model.registered.version} has 1..{largest}"
        )
    return k or model.adapter.k_max


def _checked_texts(batch: vector_pb2.TextBatch) -> list[str]:
    texts = list(batch.texts)
    if not texts:
        raise InvalidRequest("texts: none, at least one text is needed")
    for row, text in enumerate(texts):
        if (size := len(text.encode())) > limits.TEXT_BYTES_MAX:
            raise LimitExceeded(f"texts[{row}]: {size} bytes, at most {limits.TEXT_BYTES_MAX} are allowed")
    return texts


def _encoded(
    model: LoadedModel, embeddings: npt.NDArray[np.float32], k: int
) -> tuple[npt.NDArray[np.float32], RaggedCodes]:
    try:
        codes = model.adapter.encode(embeddings, k)
    except UncodableVector as error:
        raise InvalidVector(str(error)) from error
    return embeddings, RaggedCodes.from_padded(codes.latents, codes.weights)


def _version_of(model: LoadedModel) -> vector_pb2.ModelVersion:
    registered = model.registered
    return vector_pb2.ModelVersion(
        name=registered.name, version=registered.version, fingerprint=model.adapter.fingerprint
    )
