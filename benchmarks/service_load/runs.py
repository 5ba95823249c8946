"""What a run consists of."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc

from benchmarks.index_search.synthetic import HIDDEN_DIM, INPUT_DIM, Clustered
from benchmarks.service_load.deployment import MODEL, MODEL_VERSION, Deployment, deployment, echo_server
from benchmarks.service_load.function_cost import function_costs
from benchmarks.service_load.messages import Form, K, adapter_of_clustered, searches, upserts
from benchmarks.service_load.outcome import Outcome, fsync_ms
from benchmarks.service_load.searching import search
from benchmarks.service_load.writing import write
from csr.v1 import search_pb2, search_pb2_grpc
from csr_model.adapter import CSRAdapter
from services.client import Client

Say = Callable[[str], None]

FORMS: Final[tuple[Form, ...]] = ("codes", "embeddings")
INDEX_SERVERS: Final = 2


@dataclass(frozen=True)
class Plan:
    """How large a run is.

    Attributes:
        codes: Documents upserted as codes, and searched with codes.
        embeddings: Documents upserted as embeddings, and searched with embeddings.
        clients: Numbers of clients that search at the same time.
        turns: Of router and echo each, for each number of clients.
        turn_seconds: Of one turn.
        queries: Different ones.
        function_rounds: Batches for each cost of the Redis function.
    """

    codes: int = 1_000_000
    embeddings: int = 200_000
    clients: tuple[int, ...] = (1, 8, 32)
    turns: int = 5
    turn_seconds: float = 3.0
    queries: int = 1_000
    function_rounds: int = 100


QUICK: Final = Plan(100_000, 20_000, turns=3, turn_seconds=2.0, function_rounds=30)


def run(plan: Plan, command: str, say: Say, data: Path | None = None) -> Outcome:
    """Run everything, in a folder that is removed afterwards.

    Args:
        plan: How much.
        command: Options of the run, for the report.
        say: Called with a line of progress.
        data: Where to make the folder, which holds what Redis writes.
    """
    outcome = Outcome(command, INDEX_SERVERS, K, HIDDEN_DIM, INPUT_DIM)
    if data is not None:
        data.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="csr-service-benchmark-", dir=data) as name:
        folder = Path(name)
        outcome.machine["fsync"] = f"{fsync_ms(folder):.2g} ms"
        maker = Clustered()
        outcome.functions = function_costs(folder, maker, plan.function_rounds)
        say("Redis function: " + ", ".join(f"{found.microseconds:.1f} µs" for found in outcome.functions))
        adapter = adapter_of_clustered(maker).save(folder / "adapter")
        with deployment(folder, folder / "adapter", INDEX_SERVERS) as deployed:
            for form in FORMS:
                _create(deployed, form, adapter)
                _write(deployed, form, adapter, maker, plan, outcome, say)
            _search(deployed, folder, adapter, maker, plan, outcome, say)
    return outcome


def _create(deployed: Deployment, form: Form, adapter: CSRAdapter) -> None:
    with Client(deployed.router.address) as client:
        if form == "codes":
            client.create_collection(
                form, MODEL, kind="codes", fingerprint=adapter.fingerprint, hidden_dim=HIDDEN_DIM, k_max=K
            )
        else:
            client.create_collection(form, MODEL, model_version=MODEL_VERSION)


def _write(
    deployed: Deployment, form: Form, adapter: CSRAdapter, maker: Clustered, plan: Plan, outcome: Outcome, say: Say
) -> None:
    documents = _documents(plan, form)
    say(f"making {documents:,} documents as {form}")
    requests = upserts(maker, form, form, adapter.fingerprint, documents)
    found = write(deployed.router.address, form, requests)
    outcome.writing.append(found)
    say(f"{form}: {found.rate:,.0f} documents/s acknowledged, {found.visible_rate:,.0f} until all can be found")


def _search(
    deployed: Deployment,
    folder: Path,
    adapter: CSRAdapter,
    maker: Clustered,
    plan: Plan,
    outcome: Outcome,
    say: Say,
) -> None:
    asked = {form: searches(maker, form, form, adapter.fingerprint, plan.queries) for form in FORMS}
    answers: dict[str, bytes] = {
        form: _answer(deployed.router.address, requests[0]) for form, requests in asked.items()
    }
    with echo_server(folder, answers) as echo:
        for form, requests in asked.items():
            for clients in plan.clients:
                found = search(
                    deployed,
                    echo,
                    form,
                    _documents(plan, form),
                    requests,
                    clients,
                    plan.turns,
                    plan.turn_seconds,
                )
                outcome.searching.append(found)
                say(
                    f"{form}, {clients} clients: p50 {found.service.p50_ms:.2f} ms, {found.service.per_second:,.0f}/s; "
                    f"echo {found.echo.p50_ms:.2f} ms, {found.echo.per_second:,.0f}/s"
                )


def _documents(plan: Plan, form: Form) -> int:
    return plan.codes if form == "codes" else plan.embeddings


def _answer(address: str, request: search_pb2.SearchRequest) -> bytes:
    with grpc.insecure_channel(address) as channel:
        response: search_pb2.SearchResponse = search_pb2_grpc.SearchServiceStub(channel).Search(request, timeout=30.0)
    return response.SerializeToString()
