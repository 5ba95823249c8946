"""Every metric of the system, declared together: name, labels, unit and meaning.

Base units (seconds, bytes), `_total` for counters, no label whose values grow with traffic. Routers and index servers
expose them through prometheus_client; the encoder through Ray, which adds the prefix `ray_` and labels of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final, Literal

from prometheus_client import Counter, Gauge, Histogram

LATENCY_BUCKETS: Final = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
"""Seconds; resolves 0.1 ms to 10 s."""


@dataclass(frozen=True)
class MetricSpec:
    """One metric: what it is called, what it counts and who exposes it."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    process: Literal["router", "index", "encoder", "router, index"]
    documentation: str
    labels: Sequence[str] = ()


REQUESTS = MetricSpec(
    "csr_requests_total",
    "counter",
    "router, index",
    "Requests handled, by gRPC method and status code.",
    ("method", "code"),
)
REQUEST_SECONDS = MetricSpec(
    "csr_request_seconds", "histogram", "router, index", "Time to answer a request, by gRPC method.", ("method",)
)
SEARCH_PHASE_SECONDS = MetricSpec(
    "csr_router_search_phase_seconds",
    "histogram",
    "router",
    "Time of one phase of a search: resolve, encode, fan_out, rerank, payloads.",
    ("phase",),
)
DOCUMENTS_WRITTEN = MetricSpec(
    "csr_router_documents_written_total",
    "counter",
    "router",
    "Documents in write requests, by outcome: applied, unchanged, stale, conflict, missing, changed, invalid.",
    ("status",),
)
DAMAGED_RECORDS = MetricSpec(
    "csr_router_damaged_records_total",
    "counter",
    "router",
    "Stored records that failed their checksum when a search or scroll wanted to send them.",
)
SEARCHES_LOWERED = MetricSpec(
    "csr_router_searches_lowered_total",
    "counter",
    "router",
    "Searches answered with fewer latents than asked for, because index servers were overloaded.",
)
SEARCHES_PARTIAL = MetricSpec(
    "csr_router_searches_partial_total", "counter", "router", "Searches answered without some partitions."
)
INDEX_SEARCH_SECONDS = MetricSpec(
    "csr_index_search_seconds", "histogram", "index", "Time in the search kernels, per request."
)
INDEX_QUERIES = MetricSpec("csr_index_queries_total", "counter", "index", "Queries searched.")
INDEX_ENTRIES_APPLIED = MetricSpec(
    "csr_index_entries_applied_total",
    "counter",
    "index",
    "Log entries applied to the index (vectors indexed or deleted).",
)
INDEX_RELOADS = MetricSpec(
    "csr_index_partition_reloads_total",
    "counter",
    "index",
    "Partitions loaded from the store: at start, after a gap or a broken chain.",
)
INDEX_REFUSED_ENTRIES = MetricSpec(
    "csr_index_refused_entries_total", "counter", "index", "Log entries that failed their checksum or chain."
)
INDEX_DOCUMENTS = MetricSpec("csr_index_documents", "gauge", "index", "Documents that can be found.", ("collection",))
INDEX_LOG_LAG = MetricSpec(
    "csr_index_log_lag_entries",
    "gauge",
    "index",
    "Entries in the log that are not visible yet, worst partition.",
    ("collection",),
)
INDEX_STALENESS = MetricSpec(
    "csr_index_staleness_seconds",
    "gauge",
    "index",
    "How long ago a write may have been acknowledged that is not visible yet, worst partition.",
    ("collection",),
)
INDEX_QUEUED_SECONDS = MetricSpec(
    "csr_index_queued_seconds", "gauge", "index", "Time that the work in the queue takes at the measured rate."
)
INDEX_OVERLOADED = MetricSpec(
    "csr_index_overloaded_total", "counter", "index", "Requests refused because too much work was queued."
)
INDEX_MEMORY = MetricSpec("csr_index_memory_bytes", "gauge", "index", "Resident memory of the process.")
INDEX_MEMORY_LIMIT = MetricSpec(
    "csr_index_memory_limit_bytes", "gauge", "index", "Resident memory behind which no more documents are taken."
)
INDEX_SNAPSHOTS_TAKEN = MetricSpec("csr_index_snapshots_taken_total", "counter", "index", "Snapshots taken.")
INDEX_SNAPSHOT_FAILURES = MetricSpec(
    "csr_index_snapshot_failures_total", "counter", "index", "Snapshots that could not be taken."
)
INDEX_SNAPSHOTS_RESTORED = MetricSpec(
    "csr_index_snapshots_restored_total", "counter", "index", "Collections that began from a snapshot."
)
INDEX_SNAPSHOTS_REFUSED = MetricSpec(
    "csr_index_snapshots_refused_total",
    "counter",
    "index",
    "Snapshots that were not used: damaged, too old, or of another state of the collection.",
)
INDEX_UNUSED_LATENTS = MetricSpec(
    "csr_index_latents_unused_share",
    "gauge",
    "index",
    "Share of latents that no document uses, 0 to 1.",
    ("collection",),
)
INDEX_USAGE_ENTROPY = MetricSpec(
    "csr_index_latent_usage_entropy_bits",
    "gauge",
    "index",
    "Entropy of latent usage over documents, in bits.",
    ("collection",),
)
INDEX_POSTING_SKEW = MetricSpec(
    "csr_index_posting_skew",
    "gauge",
    "index",
    "Sum over latents of the squared share of documents that use it: postings per document and query.",
    ("collection",),
)
ENCODER_REQUESTS = MetricSpec(
    "csr_encoder_requests_total",
    "counter",
    "encoder",
    "Requests handled, by gRPC method and status code.",
    ("method", "code"),
)
ENCODER_REQUEST_SECONDS = MetricSpec(
    "csr_encoder_request_seconds", "histogram", "encoder", "Time to answer a request, by gRPC method.", ("method",)
)
ENCODER_COMPUTE_SECONDS = MetricSpec(
    "csr_encoder_compute_seconds",
    "histogram",
    "encoder",
    "Time to compute one batch: embed (texts through the backbone), encode (embeddings through the adapter).",
    ("stage",),
)
ENCODER_VECTORS = MetricSpec(
    "csr_encoder_vectors_total",
    "counter",
    "encoder",
    "Vectors encoded, by registered model and version.",
    ("model", "version"),
)
ENCODER_UNUSED_LATENTS = MetricSpec(
    "csr_encoder_latents_unused_share",
    "gauge",
    "encoder",
    "Share of latents that no vector used since the model was loaded, 0 to 1.",
    ("model", "version"),
)
ENCODER_USAGE_ENTROPY = MetricSpec(
    "csr_encoder_latent_usage_entropy_bits",
    "gauge",
    "encoder",
    "Entropy of latent usage over the vectors encoded since the model was loaded, in bits.",
    ("model", "version"),
)

ALL: Final[tuple[MetricSpec, ...]] = tuple(value for value in list(globals().values()) if isinstance(value, MetricSpec))


@cache
def counter(spec: MetricSpec) -> Counter:
    """Return the process's one Counter of this specification."""
    return Counter(spec.name, spec.documentation, spec.labels)


@cache
def gauge(spec: MetricSpec) -> Gauge:
    """Return the process's one Gauge of this specification."""
    return Gauge(spec.name, spec.documentation, spec.labels)


@cache
def histogram(spec: MetricSpec) -> Histogram:
    """Return the process's one Histogram of this specification, in seconds."""
    return Histogram(spec.name, spec.documentation, spec.labels, buckets=LATENCY_BUCKETS)


def expose(process: Literal["router", "index"]) -> None:
    """Make all metrics of a process: a counter that is still 0 must be there, or its first increase goes unseen."""
    makers = {"counter": counter, "gauge": gauge, "histogram": histogram}
    for spec in ALL:
        if process in spec.process:
            makers[spec.kind](spec)
