"""Everything that one run found."""

import os
import platform
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil

from benchmarks.index_search.engines import THREADS
from benchmarks.index_search.outcome import package_version, processor
from benchmarks.service_load.split import Split

_FSYNCS = 100
_PAGE_BYTES = 4_096
_PACKAGES = ("numpy", "numba", "grpcio", "protobuf", "redis", "torch")


@dataclass(frozen=True)
class Writing:
    """One bulk upsert.

    Attributes:
        form: "codes" or "embeddings".
        documents: Written, each once, into an empty collection.
        documents_per_request: Of every request but the last.
        in_flight: Requests that were waiting for an answer at any time.
        seconds: From the first request to the last answer: all documents are durable.
        visible_seconds: Until every index server had applied all of them.
        request_ms: Median time of one request.
    """

    form: str
    documents: int
    documents_per_request: int
    in_flight: int
    seconds: float
    visible_seconds: float
    request_ms: float

    @property
    def rate(self) -> float:
        """Acknowledged documents per second."""
        return self.documents / self.seconds

    @property
    def visible_rate(self) -> float:
        """Documents per second until searches saw all of them."""
        return self.documents / self.visible_seconds


@dataclass(frozen=True)
class Latency:
    """Of single-query requests from some clients, each of which sends the next one when it has the answer.

    Attributes:
        requests: Timed.
        p50_ms: At the client.
        p95_ms: The same.
        p99_ms: The same.
        mean_ms: The same.
        per_second: Answers to all clients together.
    """

    requests: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    mean_ms: float
    per_second: float

    @staticmethod
    def of(nanoseconds: list[int], seconds: float) -> "Latency":
        """Return the figures of latencies that were taken within so many seconds."""
        p50, p95, p99 = (float(value) / 1e6 for value in np.percentile(nanoseconds, (50, 95, 99)))
        mean = float(np.mean(nanoseconds)) / 1e6
        return Latency(len(nanoseconds), p50, p95, p99, mean, len(nanoseconds) / seconds)


@dataclass(frozen=True)
class Searching:
    """Searches of one form from so many clients, in turns with a bare echo of the same messages.

    Attributes:
        form: "codes" or "embeddings": what a query is sent as.
        documents: In the collection.
        clients: That asked at the same time.
        service: Through the router.
        echo: A grpc.aio server that answers the same request with the same answer and does nothing else.
        split: Where the mean time of a search through the router went.
    """

    form: str
    documents: int
    clients: int
    service: Latency
    echo: Latency
    split: Split

    @property
    def over_echo(self) -> float:
        """p50 without the index and the encoder at work, over the p50 of the echo."""
        return (self.service.p50_ms - self.split.kernels_ms - self.split.encode_ms) / self.echo.p50_ms


@dataclass(frozen=True)
class FunctionCost:
    """What the Redis function that writes costs, apart from network and disk.

    Attributes:
        form: "codes", or "embeddings" with codes.
        generations: Codes of a document.
        body_bytes: Of a document.
        microseconds: Of a document, as Redis counts it.
    """

    form: str
    generations: int
    body_bytes: int
    microseconds: float


@dataclass
class Outcome:
    """Filled as the run goes on.

    Attributes:
        command: Options of the run.
        index_servers: That the deployment has.
        k: Latents of documents and queries.
        hidden_dim: h.
        input_dim: d.
        writing: One for each form.
        searching: One for each form and number of clients.
        functions: One for each form and number of live generations.
    """

    command: str
    index_servers: int
    k: int
    hidden_dim: int
    input_dim: int
    machine: dict[str, str] = field(default_factory=lambda: machine())
    writing: list[Writing] = field(default_factory=list)
    searching: list[Searching] = field(default_factory=list)
    functions: list[FunctionCost] = field(default_factory=list)


def machine() -> dict[str, str]:
    """Return what the figures depend on besides the code."""
    described = {
        "date": time.strftime("%Y-%m-%d"),
        "processor": processor(),
        "threads": str(THREADS),
        "load at the start": f"{os.getloadavg()[0]:.1f}",
        "memory": f"{psutil.virtual_memory().total / (1 << 30):.0f} GiB",
        "python": platform.python_version(),
    }
    return described | {name: package_version(name) for name in _PACKAGES}


def fsync_ms(folder: Path) -> float:
    """Return how long the disk under a folder takes, at the median, to make a page durable."""
    seconds = []
    with (folder / "fsync").open("wb", buffering=0) as file:
        for _ in range(_FSYNCS):
            file.write(bytes(_PAGE_BYTES))
            started = time.perf_counter()
            os.fsync(file.fileno())
            seconds.append(time.perf_counter() - started)
    return 1_000 * float(np.median(seconds))
