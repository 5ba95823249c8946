"""How our processes and clients hold connections to our servers."""

from typing import Final

from services.runtime import limits

CHANNEL_OPTIONS: Final = (
    ("grpc.max_receive_message_length", limits.RESPONSE_BYTES_MAX),
    # A server that was restarted is found again within a second; gRPC's own back-off grows to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # A host that vanished without closing its connections is noticed.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
)
"""Options for every channel to a router, an index server or the encoder."""
