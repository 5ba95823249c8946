"""Every maximum of the public API, on one page. Enforced at the door, before anything is stored."""

from typing import Final

HIDDEN_DIM_MAX: Final = 65_536
INPUT_DIM_MAX: Final = 16_384
K_DOCS_MAX: Final = 256
K_QUERY_MAX: Final = 256
TOP_N_MAX: Final = 1_000
RERANK_MAX: Final = 1_000
SCROLL_MAX: Final = 1_000
"""Documents of one page."""
EXPLAINED_MAX: Final = 100
"""Documents that one request explains."""
QUERIES_PER_SEARCH_MAX: Final = 256
DOCUMENTS_PER_REQUEST_MAX: Final = 1_000
VECTORS_PER_ENCODE_MAX: Final = 4_096
REQUEST_BYTES_MAX: Final = 4 << 20
"""Largest request that is answered."""
MESSAGE_BYTES_MAX: Final = 8 << 20
"""Largest message a server reads: above it gRPC itself answers RESOURCE_EXHAUSTED, up to it we explain the limit."""
RESPONSE_BYTES_MAX: Final = 64 << 20
"""Largest message a client accepts: 256 queries x 1,000 hits with ids fit."""

ID_BYTES_MAX: Final = 128
PAYLOAD_BYTES_MAX: Final = 64 << 10
PAYLOAD_DEPTH_MAX: Final = 100
"""Objects and lists within each other: readers give up at depths of their own, and the whole answer is lost with it."""
WRITE_ID_BYTES_MAX: Final = 64
STREAM_ID_BYTES_MAX: Final = 48
"""A chunk's write id is made of the stream's id and the chunk's number."""
COLLECTION_NAME_PATTERN: Final = r"[a-z][a-z0-9_-]{0,63}"
FIELD_NAME_PATTERN: Final = r"[A-Za-z_][A-Za-z0-9_]{0,63}"
FIELDS_MAX: Final = 32
"""Declared fields of a collection."""
FILTER_DEPTH_MAX: Final = 32
FILTER_VALUES_MAX: Final = 1_000
"""Values and bounds in all of a filter."""
TEXT_BYTES_MAX: Final = 64 << 10
MODEL_NAME_BYTES_MAX: Final = 250

VERSION_MAX: Final = (1 << 53) - 1
"""Versions are compared inside Redis, whose functions hold integers exactly only up to here."""

PARTITIONS_DEFAULT: Final = 16
PARTITIONS_MAX: Final = 256
WRITE_BATCH_DOCUMENTS_MAX: Final = 100
"""Documents in one function call, so that Redis is never held for long."""
WRITE_BATCH_BYTES_MAX: Final = 1 << 20
WRITE_IDS_KEPT: Final = 1_024
"""Results of past writes kept per partition, to answer a repeated write id."""
