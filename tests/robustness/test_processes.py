"""Processes of the local stack are killed while it works: what users see meanwhile, and what `csr up` repairs."""

import signal
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import grpc
import numpy as np
import pytest

from services.client import Client, Codes, SearchResult
from services.runtime.errors import CsrError, EncoderUnavailable, StoreUnavailable, status_of
from tests.support.champion import Champion
from tests.support.deployment import eventually
from tests.support.stack import LocalStack

pytestmark = [pytest.mark.robustness, pytest.mark.timeout(600)]

QUERIES = 16
DOCUMENTS = 300
DIED = "died; `csr up` starts it again"


@pytest.fixture
def patient(stack: LocalStack) -> Iterator[Client]:
    """A client that repeats until things are well again."""
    with stack.client(timeout_seconds=60.0) as client:
        yield client


@pytest.fixture
def impatient(stack: LocalStack) -> Iterator[Client]:
    """A client that gives up soon."""
    with stack.client(timeout_seconds=3.0) as client:
        yield client


@dataclass(frozen=True)
class Corpus:
    """300 documents in a collection of their own, and what a healthy stack answers."""

    name: str
    queries: Codes
    before: SearchResult

    def search(self, client: Client, **options: bool) -> SearchResult:
        """Ask what every test asks; strict, as all searches are."""
        return client.search(self.name, codes=self.queries, top_n=50, **options)


@pytest.fixture
def corpus(stack: LocalStack, patient: Client, champion: Champion) -> Corpus:
    """Fresh documents in a stack that serves. The queries are encoded here: searching with them needs no encoder."""
    if stack.status()[0] != 0:
        stack.up()
    name = f"articles-{uuid.uuid4().hex}"
    patient.create_collection(name, champion.trained.name)
    documents = champion.data.train
    payloads = [{"row": row} for row in range(DOCUMENTS)]
    ids, embeddings = documents.ids[:DOCUMENTS], documents.embeddings[:DOCUMENTS]
    token = patient.upsert(name, ids, embeddings=embeddings, payloads=payloads).token
    codes = champion.adapter.encode(champion.data.queries.embeddings[:QUERIES], 32)
    queries = Codes(codes.latents, codes.weights, champion.adapter.fingerprint)
    return Corpus(name, queries, patient.search(name, codes=queries, top_n=50, token=token))


@dataclass
class Searcher:
    """What a thread that searches without pause was answered, by meaning."""

    right: int = 0
    wrong: list[SearchResult] = field(default_factory=list)
    errors: list[CsrError] = field(default_factory=list)


@contextmanager
def searching(stack: LocalStack, corpus: Corpus) -> Iterator[Searcher]:
    """Search in a thread while the block runs."""
    outcome, stop = Searcher(), threading.Event()

    def work() -> None:
        with stack.client(timeout_seconds=1.0) as client:
            while not stop.is_set():
                try:
                    answer = corpus.search(client)
                except CsrError as error:
                    outcome.errors.append(error)
                    continue
                if answer.hits == corpus.before.hits and answer.receipt.coverage == 1.0:
                    outcome.right += 1
                else:
                    outcome.wrong.append(answer)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield outcome
    finally:
        stop.set()
        thread.join()


def test_a_killed_index_server_never_costs_a_right_answer(stack: LocalStack, patient: Client, corpus: Corpus) -> None:
    """Users would get incomplete answers as if they were complete, or other answers after the repair."""
    with searching(stack, corpus) as seen:
        eventually(lambda: seen.right > 5)
        stack.signal("index-0", signal.SIGKILL)
        eventually(lambda: len(seen.errors) > 2, seconds=30)
        code, reports = stack.status()
        assert code == 1
        assert (reports["index-0"]["ready"], reports["index-0"]["detail"]) == (False, DIED)
        others = {name: report["pid"] for name, report in reports.items() if report["ready"]}
        assert set(others) == {"redis", "encoder", "index-1", "router"}
        right = seen.right
        stack.up()
        eventually(lambda: seen.right > right + 5, seconds=30)
    assert seen.wrong == []
    assert {status_of(error) for error in seen.errors} == {grpc.StatusCode.UNAVAILABLE}
    assert {name: stack.record(name).pid for name in others} == others
    assert stack.status()[0] == 0
    assert corpus.search(patient).hits == corpus.before.hits


@dataclass
class Writer:
    """Documents that a thread wrote one by one: acknowledged, and of unknown fate."""

    acknowledged: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    errors: list[CsrError] = field(default_factory=list)


@contextmanager
def writing(stack: LocalStack, collection: str, embeddings: np.ndarray) -> Iterator[Writer]:
    """Write in a thread while the block runs, each document with an id of its own, until a write fails."""
    outcome, stop = Writer(), threading.Event()

    def work() -> None:
        with stack.client(timeout_seconds=3.0) as client:
            for number in range(100_000):
                if stop.is_set() or outcome.errors:
                    return
                id, embedding = f"new-{number}", embeddings[number % len(embeddings)][None]
                try:
                    client.upsert(collection, [id], embeddings=embedding, payloads=[{"number": number}])
                    outcome.acknowledged.append(id)
                except CsrError as error:
                    outcome.unknown.append(id)
                    outcome.errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield outcome
    finally:
        stop.set()
        thread.join()


def test_a_killed_store_loses_no_acknowledged_write(
    stack: LocalStack, patient: Client, impatient: Client, champion: Champion, corpus: Corpus
) -> None:
    """Users would lose documents that were confirmed, or searches while the store is down, or later writes."""
    embeddings = champion.data.train.embeddings[DOCUMENTS:]
    with writing(stack, corpus.name, embeddings) as written:
        eventually(lambda: len(written.acknowledged) > 20, seconds=30)
        stack.signal("redis", signal.SIGKILL)
        eventually(lambda: bool(written.errors), seconds=30)
    assert {type(error) for error in written.errors} == {StoreUnavailable}
    during = corpus.search(impatient, include_payloads=True)
    assert all(len(hits) == 50 for hits in during.hits)
    assert during.receipt.payloads_missing
    with pytest.raises(StoreUnavailable):
        impatient.upsert(corpus.name, ["refused"], embeddings=embeddings[:1])
    code, reports = stack.status()
    assert (code, reports["redis"]["detail"]) == (1, DIED)
    servers = {name: stack.record(name).pid for name in ("index-0", "index-1", "router")}

    stack.up()
    check_contents(patient, corpus.name, written, embeddings)
    token = patient.upsert(corpus.name, ["later"], embeddings=embeddings[:1]).token
    best = patient.search(corpus.name, embeddings=embeddings[:1], top_n=2, token=token).hits[0]
    assert [(hit.id, hit.score) for hit in best] == [("later", 1.0), ("new-0", 1.0)]  # the same embedding
    assert {name: stack.record(name).pid for name in servers} == servers


def check_contents(client: Client, collection: str, written: Writer, embeddings: np.ndarray) -> None:
    """Every acknowledged document is there as it was written, and nothing that was never sent."""
    for start in range(0, len(written.acknowledged), 500):
        stored = client.get(collection, written.acknowledged[start : start + 500], include_embeddings=True)
        assert stored.missing == []
        for number, document in enumerate(stored.documents, start):
            assert document.payload == {"number": number}
            assert np.array_equal(document.embedding, embeddings[number % len(embeddings)].astype(np.float16))
    survived = client.get(collection, [*written.unknown, "refused"]).documents
    assert client.count(collection).count == DOCUMENTS + len(written.acknowledged) + len(survived)


@pytest.mark.slow
def test_a_killed_encoder_process_leaves_its_replicas_to_the_next(
    stack: LocalStack, patient: Client, champion: Champion, corpus: Corpus
) -> None:
    """Text searches would fail although replicas run, or the stack could not be repaired because they do."""
    texts = champion.data.queries.texts[:2]
    log = stack.folder / "stack" / "logs" / "encoder.log"
    expected = patient.search(corpus.name, texts=texts, allow_truncation=True).hits
    stack.signal("encoder", signal.SIGKILL)
    assert patient.search(corpus.name, texts=texts, allow_truncation=True).hits == expected
    code, reports = stack.status()
    assert (code, reports["encoder"]["detail"]) == (1, DIED)
    deployed = log.read_text().count('"event": "ready"')
    stack.up()
    eventually(lambda: log.read_text().count('"event": "ready"') > deployed, seconds=120)
    assert stack.status()[0] == 0
    assert patient.search(corpus.name, texts=texts, allow_truncation=True).hits == expected


def test_without_encoder_codes_can_be_searched_and_texts_cannot(
    stack: LocalStack, patient: Client, impatient: Client, champion: Champion, corpus: Corpus
) -> None:
    """Everything would stand still because the encoder does, or text searches would hang. Leaves it stopped."""
    stack.signal("encoder", signal.SIGTERM)
    assert corpus.search(impatient).hits == corpus.before.hits
    began = time.monotonic()
    with pytest.raises(EncoderUnavailable):
        impatient.search(corpus.name, texts=champion.data.queries.texts[:2], allow_truncation=True)
    assert time.monotonic() - began < 10
    with pytest.raises(EncoderUnavailable):
        impatient.upsert(corpus.name, ["refused"], embeddings=champion.data.train.embeddings[:1])
    assert patient.get(corpus.name, ["refused"]).missing == ["refused"]
    code, reports = stack.status()
    assert (code, reports["encoder"]["detail"]) == (1, DIED)
