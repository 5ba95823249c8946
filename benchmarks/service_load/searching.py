"""Single-query latency through a router, in turns with a bare echo of the same messages."""

from collections.abc import Sequence

import numpy as np

from benchmarks.service_load.clients import Clients, clients_of
from benchmarks.service_load.deployment import Deployment
from benchmarks.service_load.outcome import Latency, Searching
from benchmarks.service_load.split import Processes, split
from csr.v1 import search_pb2

_WARM_UP_SECONDS = 1.0


def search(
    deployed: Deployment,
    echo: str,
    form: str,
    documents: int,
    requests: Sequence[search_pb2.SearchRequest],
    clients: int,
    turns: int,
    turn_seconds: float,
) -> Searching:
    """Let so many clients ask router and echo in turn, in random order, so that noise meets both alike.

    Args:
        deployed: What is measured; only these clients may ask it meanwhile.
        echo: Address of the echo.
        form: What the queries are sent as.
        documents: In their collection.
        requests: One query each, asked again and again.
        clients: Asking at the same time.
        turns: Of each of the two.
        turn_seconds: Of one turn.
    """
    service, bare = list[int](), list[int]()
    grown: Processes | None = None
    random = np.random.default_rng(0)
    with clients_of(requests, clients) as asking:
        for address in (deployed.router.address, echo):
            asking.ask(address, min(_WARM_UP_SECONDS, turn_seconds))
        for _ in range(turns):
            for of_service in random.permutation([True, False]).tolist():
                if of_service:
                    growth = _turn(deployed, asking, turn_seconds, service)
                    grown = growth if grown is None else grown.plus(growth)
                else:
                    bare += asking.ask(echo, turn_seconds)
    assert grown is not None, "there is at least one turn"
    measured = Latency.of(service, turns * turn_seconds)
    parts = split(grown, measured.mean_ms)
    return Searching(form, documents, clients, measured, Latency.of(bare, turns * turn_seconds), parts)


def _turn(deployed: Deployment, asking: Clients, seconds: float, nanoseconds: list[int]) -> Processes:
    before = deployed.samples()
    nanoseconds += asking.ask(deployed.router.address, seconds)
    return deployed.samples().since(before)
