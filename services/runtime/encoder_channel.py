"""How to reach the encoder, for every process that calls it. Needs no Ray."""

import json
from typing import Final

from services.runtime import limits

ENCODER_APPLICATION: Final = "encoder"
"""Name of the Ray Serve application."""

ENCODER_METADATA: Final = (("application", ENCODER_APPLICATION),)
"""Metadata of every call: Ray Serve routes by it, and refuses calls without it once it runs two applications."""

HEALTHZ_METHOD: Final = "/ray.serve.RayServeAPIService/Healthz"
"""Ray Serve answers this in place of grpc.health.v1; request and response may be empty."""

_RETRY: Final = {
    "methodConfig": [
        {
            "name": [{"service": "csr.v1.EncoderService"}],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.05s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}

ENCODER_CHANNEL_OPTIONS: Final = (
    ("grpc.service_config", json.dumps(_RETRY)),
    # gRPC forgets, and then cannot retry, requests over this size; its default of 256 KiB is 80 vectors of 768.
    ("grpc.per_rpc_retry_buffer_size", 2 * limits.REQUEST_BYTES_MAX),
    ("grpc.max_receive_message_length", limits.RESPONSE_BYTES_MAX),
)
"""Channel options: calls lost with a killed replica are repeated (encoding changes nothing, so that is safe)."""
