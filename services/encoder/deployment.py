"""The Ray Serve deployment: a thin shell that turns calls into answers and errors into status codes."""

import asyncio
import math
import time
import uuid
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

import structlog
import torch
from ray.serve.grpc_util import RayServegRPCContext

from csr.v1.encoder_pb2 import EncodeRequest, EncodeResponse, GetModelRequest, GetModelResponse
from services.encoder.backbone import TextBackbone
from services.encoder.metrics import EncoderMetrics
from services.encoder.models import ModelCache, load_model
from services.encoder.registry import ModelRegistry
from services.encoder.service import EncoderService
from services.runtime.errors import CsrError, InternalError, error_metadata, status_of
from services.runtime.lifecycle import DETAILS_MAX, REQUEST_ID_KEY
from services.runtime.logging import configure_logging
from services.runtime.settings import Settings

log = structlog.get_logger()

Response = TypeVar("Response", EncodeResponse, GetModelResponse)


class Encoder:
    """One replica. Methods are those of csr.v1.EncoderService; Ray Serve finds them by name."""

    def __init__(self, settings: Settings) -> None:
        configure_logging(settings.logging, "encoder")
        encoder = settings.encoder
        torch.set_num_threads(max(1, math.floor(encoder.replica_cpus)))
        registry = ModelRegistry(settings.registry_uri)
        self._metrics = EncoderMetrics()
        self._service = EncoderService(
            registry,
            ModelCache(partial(load_model, registry), encoder.models_kept),
            TextBackbone.load(encoder.backbone, encoder.max_tokens) if encoder.backbone else None,
            self._metrics,
        )

    async def Encode(self, request: EncodeRequest, grpc_context: RayServegRPCContext) -> EncodeResponse:  # noqa: N802
        """Encode a batch of embeddings or texts."""
        return await self._answer(grpc_context, "Encode", partial(self._service.encode, request), EncodeResponse())

    async def GetModel(self, request: GetModelRequest, grpc_context: RayServegRPCContext) -> GetModelResponse:  # noqa: N802
        """Describe a version of a model."""
        answer = partial(self._service.get_model, request)
        return await self._answer(grpc_context, "GetModel", answer, GetModelResponse())

    async def _answer(
        self,
        context: RayServegRPCContext,
        method: str,
        answer: Callable[[], Awaitable[Response]],
        nothing: Response,
    ) -> Response:
        """Return the answer; on an error set the status and return `nothing`.

        Ray Serve drops trailing metadata, which name the error, when a method raises; it keeps them on a return.
        """
        started = time.perf_counter()
        code = "OK"
        structlog.contextvars.bind_contextvars(request_id=_request_id(context), rpc=method)
        try:
            return await answer()
        except CsrError as error:
            code = _refuse(context, error)
        except asyncio.CancelledError:
            code = "CANCELLED"
            raise
        except Exception:
            error_id = uuid.uuid4().hex[:12]
            log.exception("unhandled error", error_id=error_id)
            code = _refuse(context, InternalError(f"internal error, see the log for error_id {error_id}"))
        finally:
            self._metrics.answered(method, code, time.perf_counter() - started)
        return nothing


def _refuse(context: RayServegRPCContext, error: CsrError) -> str:
    status = status_of(error)
    context.set_code(status)
    context.set_details(str(error)[:DETAILS_MAX])
    context.set_trailing_metadata(list(error_metadata(error)))
    return str(status.name)


def _request_id(context: RayServegRPCContext) -> str:
    return str(dict(context.invocation_metadata()).get(REQUEST_ID_KEY, ""))[:64]
