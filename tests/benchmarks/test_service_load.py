"""The benchmark of the service: its sums, its bars, its requests, and a small run from end to end."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.index_search.codes import prefix_of
from benchmarks.index_search.synthetic import HIDDEN_DIM, INPUT_DIM, Clustered
from benchmarks.service import write
from benchmarks.service_load import bars, clients, deployment, function_cost, messages
from benchmarks.service_load.encoder import encoder_service
from benchmarks.service_load.outcome import FunctionCost, Latency, Outcome, Searching, Writing
from benchmarks.service_load.report import markdown
from benchmarks.service_load.runs import Plan, run
from benchmarks.service_load.split import Processes, Samples, Split, split
from csr.v1 import encoder_pb2, search_pb2
from services.runtime import metrics
from services.runtime.codec import codes_from_proto, embeddings_from_proto


@pytest.fixture(scope="module")
def maker() -> Clustered:
    """The documents of the benchmark."""
    return Clustered()


def histogram(spec: metrics.MetricSpec, calls: int, milliseconds: float, **labels: str) -> Samples:
    """Return the samples of so many calls that took that long on average."""
    having = frozenset(labels.items())
    return {(f"{spec.name}_count", having): float(calls), (f"{spec.name}_sum", having): calls * milliseconds / 1e3}


def router_samples(calls: int, search: float, encode: float, fan_out: float) -> Samples:
    """Return what a router counts that answered so many searches."""
    return {
        **histogram(metrics.REQUEST_SECONDS, calls, search, method="Search"),
        **histogram(metrics.REQUEST_SECONDS, 7, 99.0, method="Check"),
        **histogram(metrics.SEARCH_PHASE_SECONDS, calls, encode, phase="encode"),
        **histogram(metrics.SEARCH_PHASE_SECONDS, calls, fan_out, phase="fan_out"),
    }


def index_samples(calls: int, request: float, kernels: float) -> Samples:
    """Return what an index server counts."""
    return {
        **histogram(metrics.REQUEST_SECONDS, calls, request, method="SearchPartitions"),
        **histogram(metrics.INDEX_SEARCH_SECONDS, calls, kernels),
    }


def test_parts_add_up_to_what_clients_waited() -> None:
    """Time that is counted twice, or lost, would send optimisation to the wrong place."""
    before = Processes(router_samples(100, 50.0, 50.0, 50.0), {}, [index_samples(90, 9.0, 8.0)] * 2)
    encoder = histogram(metrics.REQUEST_SECONDS, 40, 3.0, method="Encode")
    growth = Processes(
        router_samples(40, 12.0, 4.0, 6.0), encoder, [index_samples(40, 1.5, 1.4), index_samples(40, 4, 3)]
    )
    added = Processes(
        {key: value + growth.router[key] for key, value in before.router.items()},
        encoder,
        [
            {key: value + grown[key] for key, value in had.items()}
            for had, grown in zip(before.index, growth.index, strict=True)
        ],
    )
    found = split(added.since(before), 15.0)
    expected = Split(
        client_wire_ms=3.0,
        router_ms=2.0,
        encoder_wire_ms=1.0,
        encode_ms=3.0,
        index_wire_ms=2.0,
        index_server_ms=1.0,
        kernels_ms=3.0,
    )
    assert asdict(found) == pytest.approx(asdict(expected))
    assert found.total_ms == pytest.approx(15.0)
    assert found.wire_ms == pytest.approx(6.0)
    twice = split(added.since(before).plus(growth), 15.0)
    assert asdict(twice) == pytest.approx(asdict(expected))


def test_searches_with_codes_have_no_encoder_in_them() -> None:
    """The router's phase "encode" of a search with codes is its own time, not that of a connection."""
    index = [index_samples(40, 4.0, 3.0)]
    found = split(Processes(router_samples(40, 12.0, 0.5, 6.0), {}, index), 15.0)
    assert (found.encode_ms, found.encoder_wire_ms) == (0, 0)
    assert found.router_ms == pytest.approx(6.0)
    assert found.total_ms == pytest.approx(15.0)


def searching(form: str, p50: float, echo_p50: float, encode: float = 0.0) -> Searching:
    """Return searches of which the kernels take 1 ms."""
    parts = Split(0.5, 0.5, 0.0, encode, 1.0, 0.5, 1.0)
    latency = Latency(100, p50, 2 * p50, 3 * p50, p50, 1e3 / p50)
    return Searching(form, 9, 1, latency, replace(latency, p50_ms=echo_p50), parts)


def writing(rate: float) -> Writing:
    """Return a bulk upsert at this rate."""
    return Writing("codes", 30_000, 1_000, 4, 30_000 / rate, 60_000 / rate, 9.0)


@pytest.mark.parametrize(("share", "reached"), [(1.0, True), (0.9, True), (1.1, False)])
def test_bars_point_the_right_way(share: float, reached: bool) -> None:
    """A ratio upside down would report a slow service as fast."""
    outcome = Outcome(
        "",
        *(2, 32, HIDDEN_DIM, INPUT_DIM),
        writing=[writing(bars.CODES_PER_SECOND / share)],
        searching=[
            searching("codes", 1 + 3 * 0.5 * share, 0.5),
            searching("embeddings", 1 + 2 + 3 * 0.5 * share, 0.5, encode=2.0),
        ],
    )
    found = bars.bars(outcome)
    assert [bar.required for bar in found] == [15_000, 3, 3]
    assert [bar.measured for bar in found] == pytest.approx([15_000 / share, 3 * share, 3 * share])
    # Floating point may put a ratio of exactly what is required a bit beside it.
    nudged = [replace(bar, measured=(bar.measured or 0) * (1 + 1e-9 if bar.at_least else 1 - 1e-9)) for bar in found]
    assert [bar.reached for bar in nudged] == [reached] * 3


def test_latency_is_of_all_requests() -> None:
    """Percentiles of something else than milliseconds at the client would be compared with the echo's."""
    found = Latency.of([million * 1_000_000 for million in range(101)], 10.0)
    assert (found.p50_ms, found.p95_ms, found.p99_ms, found.mean_ms) == (50, 95, 99, 50)
    assert (found.requests, found.per_second) == (101, 10.1)


async def test_embeddings_and_codes_are_the_same_documents(maker: Clustered, tmp_path: Path) -> None:
    """Searches with embeddings and with codes can be compared only if they search for the same in the same."""
    adapter = messages.adapter_of_clustered(maker)
    (sent,) = messages.searches(maker, "any", "embeddings", adapter.fingerprint, 1)
    (coded,) = messages.searches(maker, "any", "codes", adapter.fingerprint, 1)
    reference = encoder_pb2.ModelRef(name=deployment.MODEL, version=deployment.MODEL_VERSION)
    request = encoder_pb2.EncodeRequest(model=reference, embeddings=sent.embeddings, k=messages.K)
    encoded = await encoder_service(adapter).encode(request)
    limits = (HIDDEN_DIM, messages.K, adapter.fingerprint)
    theirs = codes_from_proto(encoded.codes, "codes", *limits)
    ours = codes_from_proto(coded.codes, "codes", *limits)
    assert set(theirs.latents) == set(ours.latents)
    assert sorted(theirs.weights) == pytest.approx(sorted(ours.weights), abs=1e-4)


def test_every_document_is_sent_once(maker: Clustered) -> None:
    """A rate of documents that were sent twice, or not at all, would be a rate of something else."""
    documents = 5_300
    requests = messages.upserts(maker, "any", "codes", "f" * 32, documents)
    assert [id for request in requests for id in request.ids] == [f"{row:08d}" for row in range(documents)]
    assert max(len(request.ids) for request in requests) == messages.DOCUMENTS_PER_REQUEST
    codes = [codes_from_proto(request.codes, "codes", HIDDEN_DIM, messages.K, "f" * 32) for request in requests]
    latents, weights = codes[-1].padded()
    expected = prefix_of(*(column[5_299 - 4_096 :][:1] for column in maker.block(1).codes), messages.K)
    assert np.array_equal(latents[-1], expected[0][0])
    assert np.allclose(weights[-1], expected[1][0])
    (embedded,) = messages.upserts(maker, "any", "embeddings", "", 5)
    embeddings = maker.block(0).embeddings
    assert embeddings is not None
    assert np.array_equal(embeddings_from_proto(embedded.embeddings, "embeddings"), embeddings[:5])


def test_wrong_answers_end_the_run(maker: Clustered, tmp_path: Path) -> None:
    """Errors are answered fast: a broken service would reach every bar."""
    requests = messages.searches(maker, "any", "codes", "f" * 32, 3)
    with (
        deployment.echo_server(tmp_path, {"any": search_pb2.SearchResponse(results=[{}]).SerializeToString()}) as echo,
        clients.clients_of(requests, 1) as asking,
        pytest.raises(RuntimeError, match="0 hits where 10"),
    ):
        asking.ask(echo, 0.2)


def test_pages_show_every_figure() -> None:
    """A table that lost a column would go unnoticed in a file that nobody reads line by line."""
    costs = [FunctionCost("embeddings", 3, 1_946, 18.6)]
    outcome = Outcome("", *(2, 32, HIDDEN_DIM, INPUT_DIM), {}, [writing(20_000)], [searching("codes", 4.5, 0.5)], costs)
    page = markdown(outcome, Path("picture.png"))
    for line in (
        "| codes | 30,000 | 20,000 | 10,000 | 1,000 | 4 | 9 |",
        "| 1 | router | 4.5 | 9 | 13.5 | 222 | 100 |",
        "|  | echo | 0.5 | 9 | 13.5 | 222 | 100 |",
        "| 1 | 3.5 | 0.5 | 0 | 0.5 | 0 | 1 | 0.5 | 1 |",
        "| embeddings | 3 | 1,946 | 18.6 |",
        "![picture](picture.png)",
    ):
        assert line in page


def test_more_generations_cost_more_bytes(maker: Clustered, tmp_path: Path) -> None:
    """A cost that was measured on other documents than it says would mislead whoever promotes a model."""
    codes, one, three = function_cost.function_costs(tmp_path, maker, 2)
    assert (codes.generations, one.generations, three.generations) == (1, 1, 3)
    assert codes.body_bytes < 4 * 32 + 32
    assert one.body_bytes == codes.body_bytes + 2 * INPUT_DIM
    assert three.body_bytes == one.body_bytes + 2 * (4 * 32 + 6)
    assert all(cost.microseconds > 0 for cost in (codes, one, three))


@pytest.mark.timeout(600)
def test_a_small_run_writes_everything(tmp_path: Path) -> None:
    """The command itself: a deployment of real processes is written to and searched, and ends up in files."""
    lines: list[str] = []
    plan = Plan(1_500, 1_200, clients=(1, 3), turns=1, turn_seconds=0.3, queries=5, function_rounds=2)
    outcome = run(plan, "test", lines.append, tmp_path / "data")
    write(outcome, tmp_path / "out")
    assert list((tmp_path / "data").iterdir()) == []
    assert lines
    record = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [(found["form"], found["documents"]) for found in record["writing"]] == [
        ("codes", 1_500),
        ("embeddings", 1_200),
    ]
    assert all(found["visible_seconds"] >= found["seconds"] > 0 for found in record["writing"])
    cells: Sequence[tuple[str, int]] = [(found["form"], found["clients"]) for found in record["searching"]]
    assert cells == [("codes", 1), ("codes", 3), ("embeddings", 1), ("embeddings", 3)]
    for found in outcome.searching:
        parts = asdict(found.split)
        assert found.split.total_ms == pytest.approx(found.service.mean_ms)
        assert parts["kernels_ms"] > 0
        assert parts["index_wire_ms"] > 0
        assert (parts["encode_ms"] > 0) == (found.form == "embeddings")
        assert found.service.p50_ms > found.echo.p50_ms > 0
    assert len(record["bars"]) == 5
    assert len(record["functions"]) == 3
    assert "## Searches with embeddings" in (tmp_path / "out" / "report.md").read_text()
    assert (tmp_path / "out" / "service-latency.png").stat().st_size > 10_000
