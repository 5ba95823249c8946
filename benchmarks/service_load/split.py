"""Where the time of a search went, from what the processes count about themselves. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TypeAlias

from services.runtime import metrics

Samples: TypeAlias = Mapping[tuple[str, frozenset[tuple[str, str]]], float]
"""Values of a process's metrics by name and labels."""


@dataclass(frozen=True)
class Split:
    """Mean milliseconds of a search; the parts add up to what the client measured.

    Attributes:
        client_wire_ms: Between client and router: gRPC on both sides and what waits for a processor.
        router_ms: In the router, neither encoding nor asking index servers.
        encoder_wire_ms: Between router and encoder.
        encode_ms: In the encoder.
        index_wire_ms: Between router and the slower of the index servers.
        index_server_ms: In that index server, outside the search itself.
        kernels_ms: In its search.
    """

    client_wire_ms: float
    router_ms: float
    encoder_wire_ms: float
    encode_ms: float
    index_wire_ms: float
    index_server_ms: float
    kernels_ms: float

    @property
    def wire_ms(self) -> float:
        """All three connections."""
        return self.client_wire_ms + self.encoder_wire_ms + self.index_wire_ms

    @property
    def total_ms(self) -> float:
        """Of the parts."""
        return sum(float(getattr(self, part.name)) for part in fields(self))


@dataclass(frozen=True)
class Processes:
    """The samples of one deployment at one time, or how much they grew between two."""

    router: Samples
    encoder: Samples
    index: Sequence[Samples]

    def since(self, before: "Processes") -> "Processes":
        """Return the growth."""
        return Processes(
            _growth(self.router, before.router),
            _growth(self.encoder, before.encoder),
            [_growth(now, then) for now, then in zip(self.index, before.index, strict=True)],
        )

    def plus(self, other: "Processes") -> "Processes":
        """Return the growth over two times."""
        return Processes(
            _sum(self.router, other.router),
            _sum(self.encoder, other.encoder),
            [_sum(mine, theirs) for mine, theirs in zip(self.index, other.index, strict=True)],
        )


def split(grown: Processes, client_mean_ms: float) -> Split:
    """Return the parts of a mean search of `client_mean_ms` while the metrics grew by this much."""
    router = _mean_ms(grown.router, metrics.REQUEST_SECONDS, method="Search")
    encoding = _mean_ms(grown.router, metrics.SEARCH_PHASE_SECONDS, phase="encode")
    asking = _mean_ms(grown.router, metrics.SEARCH_PHASE_SECONDS, phase="fan_out")
    encoder = _mean_ms(grown.encoder, metrics.REQUEST_SECONDS, method="Encode")
    servers = [
        (
            _mean_ms(samples, metrics.REQUEST_SECONDS, method="SearchPartitions"),
            _mean_ms(samples, metrics.INDEX_SEARCH_SECONDS),
        )
        for samples in grown.index
    ]
    server, kernels = max(servers)
    calls_encoder = encoder > 0
    return Split(
        client_wire_ms=client_mean_ms - router,
        router_ms=router - asking - (encoding if calls_encoder else 0.0),
        encoder_wire_ms=encoding - encoder if calls_encoder else 0.0,
        encode_ms=encoder,
        index_wire_ms=asking - server,
        index_server_ms=server - kernels,
        kernels_ms=kernels,
    )


def _mean_ms(samples: Samples, spec: metrics.MetricSpec, **labels: str) -> float:
    """Return the mean of a histogram; 0 where nothing was counted."""
    chosen = labels.items()
    count = sum(value for (name, having), value in samples.items() if name == f"{spec.name}_count" and chosen <= having)
    total = sum(value for (name, having), value in samples.items() if name == f"{spec.name}_sum" and chosen <= having)
    return 1_000 * total / count if count else 0.0


def _growth(now: Samples, before: Samples) -> Samples:
    return {key: value - before.get(key, 0.0) for key, value in now.items()}


def _sum(one: Samples, other: Samples) -> Samples:
    return {key: one.get(key, 0.0) + other.get(key, 0.0) for key in one.keys() | other.keys()}
