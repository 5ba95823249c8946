"""The whole way of a text: trained on, promoted, served, indexed, searched; then processes die and come back.

The model is the session's champion, trained by two Ray Train workers on real text; the stack is `csr up`.
"""

import re
import signal
import urllib.request

import grpc
import numpy as np
import pytest
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from csr.v1 import encoder_pb2, encoder_pb2_grpc, vector_pb2
from services.client import Client, Codes, SearchResult, Token
from services.runtime import metrics
from services.runtime.codec import embeddings_to_proto
from services.runtime.encoder_channel import ENCODER_METADATA
from services.runtime.errors import FingerprintMismatch
from tests.services.index.core import oracle
from tests.support.champion import Champion
from tests.support.deployment import eventually
from tests.support.ray_cluster import RayCluster
from tests.support.stack import LocalStack

pytestmark = pytest.mark.timeout(600)

COLLECTION = "articles"
QUERIES = 24
Answers = list[list[tuple[str, float]]]


@pytest.fixture
def client(stack: LocalStack) -> Client:
    """A patient client of the router."""
    with stack.client() as client:
        yield client


@pytest.fixture(scope="module")
def written(stack: LocalStack, champion: Champion) -> Token:
    """600 documents with texts as payloads in a collection of the champion; the token covers them all."""
    documents = champion.data.train
    with stack.client() as client:
        client.create_collection(COLLECTION, champion.trained.name)
        payloads = [{"text": text[:200]} for text in documents.texts]
        result = client.upsert(COLLECTION, documents.ids, embeddings=documents.embeddings, payloads=payloads)
    assert {write.status for write in result.results} == {"applied"}
    return result.token


@pytest.fixture(scope="module")
def stored(stack: LocalStack, champion: Champion, written: Token) -> dict[str, oracle.Document]:
    """The oracle's view of the stored codes, read back through the API."""
    with stack.client() as client:
        found = client.get(COLLECTION, champion.data.train.ids, include_codes=True)
    assert found.missing == []
    return {
        document.id: oracle.Document(
            [
                (latent, round(65535 * weight))
                for latent, weight in zip(document.latents.tolist(), document.weights.tolist(), strict=True)
            ]
        )
        for document in found.documents
    }


@pytest.fixture(scope="module")
def queries(champion: Champion) -> np.ndarray:
    """Held-out embeddings, as float16 keeps them."""
    return champion.data.queries.embeddings[:QUERIES].astype(np.float16).astype(np.float32)


def encoded(stack: LocalStack, champion: Champion, k: int, **queries: object) -> vector_pb2.CodeBatch:
    """Ask the encoder itself for the codes of queries."""
    model = encoder_pb2.ModelRef(name=champion.trained.name, version=champion.trained.version)
    request = encoder_pb2.EncodeRequest(model=model, k=k, allow_truncation=True, **queries)
    with grpc.insecure_channel(f"127.0.0.1:{stack.encoder_port}") as channel:
        stub = encoder_pb2_grpc.EncoderServiceStub(channel)
        return stub.Encode(request, metadata=ENCODER_METADATA, timeout=60).codes


def rows(batch: vector_pb2.CodeBatch) -> list[oracle.Code]:
    """Return the stored form of packed codes."""
    ends = np.cumsum(np.frombuffer(batch.lengths, "<u2"), dtype=np.int64)[:-1]
    latents = np.split(np.frombuffer(batch.latents, "<u2"), ends)
    weights = np.split(np.frombuffer(batch.weights, "<f4"), ends)
    return [oracle.stored_code(*row) for row in zip(latents, weights, strict=True)]


def found(result: SearchResult) -> Answers:
    """Return ids and scores of an answer."""
    return [[(hit.id, hit.score) for hit in hits] for hits in result.hits]


def brute_force(documents: dict[str, oracle.Document], codes: list[oracle.Code], top_n: int, k: int) -> Answers:
    """Return the right answers, by the definition of the score."""
    return [oracle.search(documents, code, top_n, k, k) for code in codes]


def test_a_collection_is_encoded_by_the_model_that_passed_the_gates(
    client: Client, champion: Champion, written: Token
) -> None:
    """Search would run on another model than the one that was trained, judged and promoted."""
    described = client.describe_collection(COLLECTION)
    model = described.collection.active.model
    assert champion.promotion.passed
    assert (model.name, model.version) == (champion.trained.name, champion.trained.version)
    assert model.fingerprint == champion.trained.fingerprint == champion.adapter.fingerprint
    assert described.documents == client.count(COLLECTION).count == len(champion.data.train.ids)
    assert described.appendfsync == "always"
    assert {part.index_server for part in described.partitions} == {"index-0", "index-1"}


def test_stored_codes_are_those_of_the_adapter(champion: Champion, stored: dict[str, oracle.Document]) -> None:
    """The served encoder would differ from the adapter that was evaluated."""
    documents = champion.data.train
    rounded = documents.embeddings.astype(np.float16).astype(np.float32)
    codes = champion.adapter.encode(rounded, champion.adapter.levels[-1])
    for id, latents, weights in zip(documents.ids, codes.latents, codes.weights, strict=True):
        expected, actual = dict(oracle.stored_code(latents, weights)), dict(stored[id].code)
        # Batches of another size may differ in the last bits, and so in latents that are as good as tied.
        for latent in expected.keys() ^ actual.keys():
            assert expected.get(latent, actual.get(latent)) == pytest.approx(
                min((*expected.values(), *actual.values())), abs=65
            )
        for latent in expected.keys() & actual.keys():
            assert actual[latent] == pytest.approx(expected[latent], abs=65)


@pytest.mark.parametrize("k", [8, 32, 64])
def test_answers_to_embeddings_are_those_of_brute_force(
    stack: LocalStack,
    client: Client,
    champion: Champion,
    stored: dict[str, oracle.Document],
    queries: np.ndarray,
    written: Token,
    k: int,
) -> None:
    """Users would miss neighbours, or see them in another order or with other scores than the codes give."""
    answer = client.search(COLLECTION, embeddings=queries, top_n=20, k=k, token=written)
    codes = rows(encoded(stack, champion, k, embeddings=embeddings_to_proto(queries)))
    assert found(answer) == brute_force(stored, codes, 20, k)
    assert all(len(hits) == 20 for hits in answer.hits)
    assert (answer.receipt.k_query, answer.receipt.k_docs, answer.receipt.coverage) == (k, k, 1.0)


def test_answers_to_texts_are_those_of_brute_force(
    stack: LocalStack, client: Client, champion: Champion, stored: dict[str, oracle.Document], written: Token
) -> None:
    """People who search with words would get other answers than the codes of their words deserve."""
    texts = champion.data.queries.texts[:QUERIES]
    answer = client.search(COLLECTION, texts=texts, top_n=10, k=32, token=written, allow_truncation=True)
    codes = rows(encoded(stack, champion, 32, texts=vector_pb2.TextBatch(texts=texts)))
    assert found(answer) == brute_force(stored, codes, 10, 32)


def test_answers_to_local_codes_are_those_of_brute_force(
    client: Client, champion: Champion, stored: dict[str, oracle.Document], queries: np.ndarray, written: Token
) -> None:
    """Users who encode by themselves, with the adapter from the registry, would get wrong answers."""
    codes = champion.adapter.encode(queries, 64)
    query = Codes(codes.latents, codes.weights, champion.adapter.fingerprint)
    answer = client.search(COLLECTION, codes=query, top_n=10, k=16, token=written)
    local = [oracle.stored_code(*row) for row in zip(codes.latents, codes.weights, strict=True)]
    assert found(answer) == brute_force(stored, local, 10, 16)


def test_codes_of_another_model_are_refused(client: Client, champion: Champion, queries: np.ndarray) -> None:
    """Codes of another model would be scored against latents that mean something else."""
    codes = champion.adapter.encode(queries, 8)
    with pytest.raises(FingerprintMismatch, match=r"codes\.fingerprint") as caught:
        client.search(COLLECTION, codes=Codes(codes.latents, codes.weights, "ab" * 16))
    assert caught.value.__context__.code() is grpc.StatusCode.FAILED_PRECONDITION


def test_reranking_scores_sparse_hits_by_their_embeddings(
    client: Client, champion: Champion, queries: np.ndarray, written: Token
) -> None:
    """Users who pay for re-ranking would not get the dense order of the hits."""
    documents = champion.data.train
    embeddings = documents.embeddings.astype(np.float16).astype(np.float64)
    cosines = queries @ embeddings.T / np.linalg.norm(queries, axis=1)[:, None] / np.linalg.norm(embeddings, axis=1)
    rank = {id: row for row, id in enumerate(documents.ids)}
    sparse = client.search(COLLECTION, embeddings=queries, top_n=50, k=8, token=written)
    dense = client.search(COLLECTION, embeddings=queries, top_n=10, k=8, rerank=50, token=written)
    for row, (candidates, hits) in enumerate(zip(sparse.hits, dense.hits, strict=True)):
        best = sorted(candidates, key=lambda hit: (-cosines[row, rank[hit.id]], hit.id))[:10]
        assert [hit.id for hit in hits] == [hit.id for hit in best]
        assert [hit.score for hit in hits] == pytest.approx([cosines[row, rank[hit.id]] for hit in best], abs=1e-6)


def test_payloads_are_the_texts_that_were_stored(
    client: Client, champion: Champion, queries: np.ndarray, written: Token
) -> None:
    """People would see hits without text, or with the text of another document."""
    documents = champion.data.train
    texts = dict(zip(documents.ids, documents.texts, strict=True))
    answer = client.search(COLLECTION, embeddings=queries, include_payloads=True, token=written)
    assert not answer.receipt.payloads_missing
    assert all(hit.payload == {"text": texts[hit.id][:200]} for hits in answer.hits for hit in hits)


def test_a_token_makes_writes_visible_at_once(client: Client, champion: Champion, queries: np.ndarray) -> None:
    """Users would not find what they have just stored, or find what they have just deleted."""
    client.create_collection("own-writes", champion.trained.name, partitions=4)
    for row, query in enumerate(queries):
        token = client.upsert("own-writes", [f"own-{row}"], embeddings=query[None]).token
        best = client.search("own-writes", embeddings=query[None], top_n=1, token=token).hits[0][0]
        assert best.id == f"own-{row}"
    token = client.delete("own-writes", ["own-0"]).token
    rest = client.search("own-writes", embeddings=queries, top_n=100, token=token)
    assert "own-0" not in {hit.id for hits in rest.hits for hit in hits}


@pytest.mark.parametrize(
    ("process", "services"),
    [
        ("router", {"csr.v1.SearchService", "csr.v1.ControlService"}),
        ("index-0", {"csr.v1.ShardService"}),
        ("index-1", {"csr.v1.ShardService"}),
    ],
)
def test_reflection_lists_what_a_process_serves(stack: LocalStack, process: str, services: set[str]) -> None:
    """grpcurl would need the proto files to talk to a process."""
    with grpc.insecure_channel(stack.record(process).address) as channel:
        listed = set(ProtoReflectionDescriptorDatabase(channel).get_services())
    assert listed >= {*services, "grpc.health.v1.Health"}


def test_every_process_exposes_its_metrics(
    stack: LocalStack, ray_cluster: RayCluster, client: Client, queries: np.ndarray, written: Token
) -> None:
    """Dashboards and alerts would miss a part of the system."""
    client.search(COLLECTION, embeddings=queries, rerank=20, include_payloads=True, token=written)
    pages = {f"127.0.0.1:{stack.router_metrics_port}": exposed_by("router")}
    for number in range(2):
        pages[f"127.0.0.1:{stack.index_metrics_port + number}"] = exposed_by("index")
    pages[ray_cluster.metrics_address] = {f"ray_{name}" for name in exposed_by("encoder")}
    for address, expected in pages.items():
        eventually(lambda address=address, expected=expected: expected <= metric_names(address), seconds=60)


def exposed_by(process: str) -> set[str]:
    """Return the names of a process's metrics as a scrape shows them."""
    return {spec.name for spec in metrics.ALL if process in spec.process}


def metric_names(address: str) -> set[str]:
    """Return the names that a scrape finds."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as page:
        return set(re.findall(r"^# TYPE (\S+) ", page.read().decode(), re.MULTILINE))


def test_up_on_a_running_stack_changes_nothing(stack: LocalStack, written: Token) -> None:
    """Typing `csr up` twice would restart, or start twice, what serves."""
    before = stack.state_path.read_bytes()
    again = stack.csr("up")
    assert again.returncode == 0
    assert again.stderr == ""
    assert stack.state_path.read_bytes() == before
    assert stack.status()[0] == 0


@pytest.mark.robustness
def test_killed_processes_come_back_with_the_same_answers(
    stack: LocalStack, client: Client, queries: np.ndarray, written: Token
) -> None:
    """A crash of the store and an index server would change answers or lose documents."""
    before = client.search(COLLECTION, embeddings=queries, top_n=50, include_payloads=True, token=written)
    for process in ("index-1", "redis"):
        stack.signal(process, signal.SIGKILL)
    code, reports = stack.status()
    assert code == 1
    assert {name for name, report in reports.items() if not report["ready"]} >= {"index-1", "redis"}
    kept = {name: report["pid"] for name, report in reports.items() if name not in ("index-1", "redis")}
    stack.up()
    assert {name: stack.record(name).pid for name in kept} == kept
    after = client.search(COLLECTION, embeddings=queries, top_n=50, include_payloads=True, token=written)
    assert after.hits == before.hits
    assert after.receipt.coverage == 1.0
