"""The encoder's metrics, kept by Ray: replicas share ports with their node, so they cannot expose their own.

Ray adds the prefix `ray_` and the labels application, deployment and replica, and serves them on the node's metrics
port a few seconds later.
"""

import time
from typing import Final

from ray.serve.metrics import Counter, Gauge, Histogram

from services.encoder.models import LoadedModel
from services.runtime import metrics

_USAGE_SECONDS: Final = 5.0
"""Shortest time between two reports of a model's latent usage, which costs a pass over all latents."""


class EncoderMetrics:
    """Everything a replica reports. Use from one thread."""

    def __init__(self) -> None:
        requests, vectors = metrics.ENCODER_REQUESTS, metrics.ENCODER_VECTORS
        self._requests = Counter(requests.name, requests.documentation, tuple(requests.labels))
        self._vectors = Counter(vectors.name, vectors.documentation, tuple(vectors.labels))
        self._request_seconds = _histogram(metrics.ENCODER_REQUEST_SECONDS)
        self._compute_seconds = _histogram(metrics.ENCODER_COMPUTE_SECONDS)
        unused, entropy = metrics.ENCODER_UNUSED_LATENTS, metrics.ENCODER_USAGE_ENTROPY
        self._unused = Gauge(unused.name, unused.documentation, tuple(unused.labels))
        self._entropy = Gauge(entropy.name, entropy.documentation, tuple(entropy.labels))
        self._usage_reported: dict[tuple[str, int], float] = {}

    def answered(self, method: str, code: str, seconds: float) -> None:
        """Count one request."""
        self._requests.inc(tags={"method": method, "code": code})
        self._request_seconds.observe(seconds, tags={"method": method})

    def computed(self, stage: str, seconds: float) -> None:
        """Time one batch in the backbone ("embed") or the adapter ("encode")."""
        self._compute_seconds.observe(seconds, tags={"stage": stage})

    def encoded(self, model: LoadedModel, vectors: int) -> None:
        """Count vectors, and report the model's latent usage if the last report is old enough."""
        registered = model.registered
        tags = {"model": registered.name, "version": str(registered.version)}
        self._vectors.inc(vectors, tags=tags)
        key = (registered.name, registered.version)
        now = time.monotonic()
        if now - self._usage_reported.get(key, -_USAGE_SECONDS) >= _USAGE_SECONDS:
            self._usage_reported[key] = now
            self._unused.set(model.usage.unused_share, tags=tags)
            self._entropy.set(model.usage.entropy_bits, tags=tags)


def _histogram(spec: metrics.MetricSpec) -> Histogram:
    return Histogram(spec.name, spec.documentation, list(metrics.LATENCY_BUCKETS), tuple(spec.labels))
