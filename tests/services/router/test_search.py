"""Searches through a real router, two real index servers and a real Redis."""

import numpy as np
import pytest

from services.client import Client, Codes, Token
from services.runtime.errors import FingerprintMismatch, UnknownCollection, WrongKind, WrongState
from tests.services.router.corpus import (
    FINGERPRINT,
    HIDDEN_DIM,
    K_MAX,
    create_codes_collection,
    documents,
    expected,
    found,
    random_codes,
)
from tests.support.deployment import MODEL, Deployment
from tests.support.encoder_server import clustered, embed_text


@pytest.fixture(scope="module")
def corpus(deployment: Deployment) -> tuple[str, dict[str, object], Token]:
    """A collection of 300 random codes: its name, the oracle's documents, a token that covers them."""
    name = "search-codes"
    ids = [f"d{number}" for number in range(300)]
    codes = random_codes(300, seed=1)
    with deployment.client() as client:
        create_codes_collection(client, name)
        written = client.upsert(name, ids, codes=codes, payloads=[{"number": number} for number in range(300)])
    return name, documents(ids, codes), written.token  # type: ignore[return-value]


@pytest.mark.parametrize(
    "levels",
    [
        {},
        {"k": 4},
        {"k": 1},
        {"k_query": 3},
        {"k_docs": 2},
        {"k_query": 6, "k_docs": 4},
        {"top_n": 1},
        {"top_n": 1000},
        {"min_score": 0.5},
    ],
)
def test_answers_are_exact_at_every_level(client: Client, corpus: tuple, levels: dict[str, float]) -> None:
    """Users would miss documents, or see scores that are not the codes' cosine."""
    name, stored, token = corpus
    queries = random_codes(40, seed=2)
    result = client.search(name, codes=queries, token=token, **levels)
    k = levels.get("k", K_MAX)
    right = expected(
        stored,
        queries,
        int(levels.get("top_n", 10)),
        int(levels.get("k_query", k)),
        int(levels.get("k_docs", k)),
        levels.get("min_score", 0.0),
    )
    assert found(result) == right
    assert any(right)


def test_queries_may_be_fatter_than_documents(client: Client, corpus: tuple) -> None:
    """Queries of more latents than k_max, up to 256, would be refused or cut."""
    name, stored, token = corpus
    queries = random_codes(20, seed=5, width=40)
    result = client.search(name, codes=queries, k_query=40, token=token)
    assert found(result) == expected(stored, queries, 10, 40, K_MAX)


def test_the_receipt_names_what_answered(client: Client, corpus: tuple) -> None:
    """Users could not tell which model, generation and log positions an answer is from."""
    name, _, token = corpus
    receipt = client.search(name, codes=random_codes(1, seed=3), k=4, k_query=6, token=token).receipt
    collection = client.describe_collection(name).collection
    assert receipt.collection_id == collection.collection_id == token.collection_id
    assert receipt.generation == 1
    assert receipt.model.fingerprint == FINGERPRINT
    assert (receipt.k_query, receipt.k_docs) == (6, 4)
    assert receipt.coverage == 1.0
    assert not receipt.payloads_missing
    assert set(receipt.token.positions) == set(range(4))
    assert all(receipt.token.positions[partition] >= lsn for partition, lsn in token.positions.items())


def test_payloads_come_with_their_hits(client: Client, corpus: tuple) -> None:
    """Hits would carry the payload of another document, or none."""
    name, _, token = corpus
    result = client.search(name, codes=random_codes(8, seed=4), include_payloads=True, token=token)
    hits = [hit for hits in result.hits for hit in hits]
    assert hits
    assert all(hit.payload == {"number": int(hit.id[1:])} for hit in hits)
    without = client.search(name, codes=random_codes(8, seed=4), token=token)
    assert all(hit.payload is None for hits in without.hits for hit in hits)


def test_a_token_makes_a_write_visible(client: Client, name: str) -> None:
    """Users who write and then search with the token would not find what they wrote."""
    create_codes_collection(client, name)
    codes = random_codes(30, seed=6)
    for row in range(30):
        own = Codes(codes.latents[row : row + 1], codes.weights[row : row + 1], FINGERPRINT)
        written = client.upsert(name, [f"d{row}"], codes=own)
        hits = client.search(name, codes=own, top_n=1000, token=written.token).hits[0]
        assert f"d{row}" in [hit.id for hit in hits]
    deleted = client.delete(name, ["d7"])
    hits = client.search(name, codes=codes, top_n=1000, token=deleted.token).hits
    assert all(hit.id != "d7" for query_hits in hits for hit in query_hits)


def test_codes_of_another_model_are_refused(client: Client, corpus: tuple) -> None:
    """A query of another model would be scored against codes that it does not compare with."""
    name, _, _ = corpus
    queries = random_codes(1, seed=2)._replace(fingerprint="cd" * 16)
    with pytest.raises(FingerprintMismatch, match=f"codes.fingerprint: {'cd' * 16}.*{FINGERPRINT}"):
        client.search(name, codes=queries)


def test_a_token_of_a_deleted_collection_is_refused(client: Client, name: str) -> None:
    """A search after recreation would wait for positions of the old collection, or take them for reached."""
    create_codes_collection(client, name)
    token = client.upsert(name, ["a"], codes=random_codes(1, seed=1)).token
    client.delete_collection(name)
    with pytest.raises(UnknownCollection):
        client.search(name, codes=random_codes(1, seed=1))
    create_codes_collection(client, name)
    with pytest.raises(WrongState, match="token"):
        client.search(name, codes=random_codes(1, seed=1), token=token)
    assert client.search(name, codes=random_codes(1, seed=1)).hits == [[]]


def test_empty_codes_are_stored_and_never_hit(client: Client, name: str) -> None:
    """A document without active latents would be lost, or found by everything."""
    create_codes_collection(client, name)
    codes = Codes(np.zeros((1, K_MAX), np.uint16), np.zeros((1, K_MAX), np.float32), FINGERPRINT)
    token = client.upsert(name, ["empty"], codes=codes).token
    assert client.count(name).count == 1
    assert client.search(name, codes=codes, token=token).hits == [[]]


@pytest.fixture(scope="module")
def dense(deployment: Deployment) -> tuple[str, np.ndarray, Token]:
    """A collection of 400 embeddings encoded by the champion."""
    name = "search-dense"
    embeddings = clustered(400, seed=11)
    with deployment.client() as client:
        client.create_collection(name, MODEL, partitions=4)
        token = client.upsert(name, [f"d{number}" for number in range(400)], embeddings=embeddings).token
    return name, embeddings, token


def champion_codes(deployment: Deployment, embeddings: np.ndarray, k: int) -> Codes:
    """Encode as the router must: rounded to float16, by version 2."""
    adapter = deployment.encoder.adapters[MODEL, 2]
    codes = adapter.encode(embeddings.astype(np.float16).astype(np.float32), k)
    return Codes(codes.latents, codes.weights, adapter.fingerprint)


@pytest.mark.parametrize(("k_query", "k_docs"), [(8, 8), (4, 4), (8, 2), (16, 8)])
def test_dense_queries_are_encoded_by_the_pinned_version(
    client: Client, deployment: Deployment, dense: tuple, k_query: int, k_docs: int
) -> None:
    """Queries encoded by another version than the documents would find nonsense."""
    name, embeddings, token = dense
    queries = clustered(20, seed=12)
    result = client.search(name, embeddings=queries, k_query=k_query, k_docs=k_docs, token=token)
    stored = documents([f"d{number}" for number in range(400)], champion_codes(deployment, embeddings, 8))
    codes = champion_codes(deployment, queries, k_query)
    assert found(result) == expected(stored, codes, 10, k_query, k_docs)
    assert (result.receipt.model.name, result.receipt.model.version) == (MODEL, 2)


def test_codes_of_the_generation_may_search_a_dense_collection(
    client: Client, deployment: Deployment, dense: tuple
) -> None:
    """Applications that encode themselves could not search collections that follow promotions."""
    name, _, token = dense
    queries = clustered(5, seed=13)
    codes = champion_codes(deployment, queries, 8)
    by_code = client.search(name, codes=codes, token=token)
    assert found(by_code) == found(client.search(name, embeddings=queries, token=token))
    with pytest.raises(FingerprintMismatch):
        client.search(name, codes=codes._replace(fingerprint=deployment.encoder.adapters[MODEL, 1].fingerprint))


def test_a_document_is_found_by_its_own_embedding(client: Client, dense: tuple) -> None:
    """An exact duplicate would not come first with score 1: rounding would differ between writes and reads."""
    name, embeddings, token = dense
    for hits in (
        client.search(name, embeddings=embeddings[:50], top_n=400, token=token, min_score=1.0).hits,
        client.search(name, embeddings=embeddings[:50], top_n=1, rerank=400, token=token, min_score=1.0).hits,
    ):
        assert all(f"d{row}" in [hit.id for hit in hits[row]] for row in range(50))


@pytest.mark.parametrize("rerank", [10, 50, 400])
def test_reranking_equals_brute_force_over_the_sparse_hits(client: Client, dense: tuple, rerank: int) -> None:
    """Re-ranked hits would not be the best of the sparse ones by their embeddings."""
    name, embeddings, token = dense
    queries = clustered(20, seed=14)
    sparse = client.search(name, embeddings=queries, top_n=rerank, k=4, token=token)
    result = client.search(name, embeddings=queries, top_n=10, k=4, rerank=rerank, token=token)
    rows = embeddings.astype(np.float16).astype(np.float64)
    for query, sparse_hits, hits in zip(queries.astype(np.float16), sparse.hits, result.hits, strict=True):
        wide = query.astype(np.float64)
        cosines = rows @ wide / (np.linalg.norm(rows, axis=1) * np.linalg.norm(wide))
        best = sorted((-cosines[int(hit.id[1:])], hit.id) for hit in sparse_hits)[:10]
        assert [hit.id for hit in hits] == [id for _, id in best]
        assert [hit.score for hit in hits] == pytest.approx([-negated for negated, _ in best], abs=1e-12)


def test_reranking_many_queries_reads_in_parts(client: Client, dense: tuple) -> None:
    """A large batch would be answered for its first queries only."""
    name, embeddings, token = dense
    queries = np.repeat(embeddings[:8], 32, axis=0)
    result = client.search(name, embeddings=queries, top_n=3, rerank=400, include_payloads=True, token=token)
    assert len(result.hits) == 256
    for row in range(0, 256, 32):
        assert result.hits[row][0].id == f"d{row // 32}"
        assert all(hits == result.hits[row] for hits in result.hits[row : row + 32])


def test_texts_are_embedded_and_found(client: Client, deployment: Deployment, name: str) -> None:
    """Users without embeddings of their own could not store or search."""
    client.create_collection(name, MODEL, partitions=4)
    texts = ["red apples", "green pears", "fast trains", "slow boats", "blue skies"]
    written = client.upsert(name, texts, texts=texts)
    hits = client.search(name, texts=["apples red", "boats slow"], top_n=1, rerank=5, token=written.token).hits
    assert [query_hits[0].id for query_hits in hits] == ["red apples", "slow boats"]
    stored = client.get(name, texts, include_embeddings=True).documents
    for document in stored:
        np.testing.assert_array_equal(document.embedding, embed_text(document.id))
    by_embedding = client.search(name, embeddings=embed_text("red apples")[None], token=written.token)
    assert found(by_embedding) == found(client.search(name, texts=["red apples"], token=written.token))


def test_collections_of_codes_take_codes_only(client: Client, corpus: tuple) -> None:
    """A dense query to a collection without a model would fail obscurely."""
    name, _, _ = corpus
    with pytest.raises(WrongKind, match="embeddings: collection 'search-codes' is of kind codes, send codes"):
        client.search(name, embeddings=np.ones((1, 4)))
    with pytest.raises(WrongKind, match="texts"):
        client.search(name, texts=["hello"])


def test_a_batch_answers_as_its_queries_alone(client: Client, corpus: tuple) -> None:
    """Answers would depend on what else is asked in the same request."""
    name, _, token = corpus
    queries = random_codes(256, seed=21)
    together = found(client.search(name, codes=queries, token=token))
    for row in range(0, 256, 37):
        alone = Codes(queries.latents[row : row + 1], queries.weights[row : row + 1], FINGERPRINT)
        assert found(client.search(name, codes=alone, token=token)) == [together[row]]
    assert queries.latents.max() < HIDDEN_DIM
