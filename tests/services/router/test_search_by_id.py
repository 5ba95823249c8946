"""Stored documents as queries, and explanations, through a real router and real index servers."""

import numpy as np
import pytest

from services.client import Client, Codes, Token
from services.runtime.errors import UnknownDocument
from tests.services.router.corpus import FINGERPRINT, create_codes_collection, documents, expected, found, random_codes
from tests.support.deployment import MODEL, Deployment
from tests.support.encoder_server import clustered

NAME, DENSE = "near-codes", "near-dense"
IDS = [f"d{row}" for row in range(150)]
CODES = random_codes(150, seed=31)
EMBEDDINGS = clustered(150, seed=32)


@pytest.fixture(scope="module")
def tokens(deployment: Deployment) -> tuple[Token, Token]:
    """Two collections, and tokens that cover them."""
    with deployment.client() as client:
        create_codes_collection(client, NAME)
        client.create_collection(DENSE, MODEL, partitions=4)
        codes = client.upsert(NAME, IDS, codes=CODES).token
        return codes, client.upsert(DENSE, IDS, embeddings=EMBEDDINGS).token


@pytest.mark.parametrize("levels", [{}, {"k": 4}, {"k_query": 2, "k_docs": 8}])
def test_a_stored_document_finds_what_its_code_finds(client: Client, tokens: tuple, levels: dict[str, int]) -> None:
    """Neighbours of a document would be others than those of its own code, or the document itself among them."""
    k_query, k_docs = levels.get("k_query", levels.get("k", 8)), levels.get("k_docs", levels.get("k", 8))
    asked = ["d7", "d3", "d7", "d149"]
    rows = [int(id[1:]) for id in asked]
    queries = Codes(CODES.latents[rows], CODES.weights[rows], FINGERPRINT)
    right = expected(documents(IDS, CODES), queries, 11, k_query, k_docs)
    result = client.search(NAME, ids=asked, top_n=10, token=tokens[0], **levels)
    assert found(result) == [[hit for hit in hits if hit[0] != id][:10] for id, hits in zip(asked, right, strict=True)]


def test_an_exact_duplicate_scores_one(client: Client, name: str) -> None:
    """Looking for duplicates of a document with min_score=1 would find none."""
    create_codes_collection(client, name)
    twice = Codes(np.repeat(CODES.latents[:20], 2, axis=0), np.repeat(CODES.weights[:20], 2, axis=0), FINGERPRINT)
    ids = [f"{row // 2}{'ab'[row % 2]}" for row in range(40)]
    token = client.upsert(name, ids, codes=twice).token
    hits = client.search(name, ids=[f"{row}a" for row in range(20)], min_score=1.0, token=token).hits
    assert all(f"{row}b" in [hit.id for hit in hits[row]] for row in range(20))


def test_an_unknown_document_is_named(client: Client, tokens: tuple) -> None:
    """A search by ids would answer fewer lists than were asked for, or say only that something is missing."""
    with pytest.raises(UnknownDocument, match=r"^ids\[1\]: no document 'nobody' in 'near-codes'"):
        client.search(NAME, ids=["d1", "nobody"])


def test_neighbours_are_reranked_with_stored_embeddings(client: Client, tokens: tuple) -> None:
    """Neighbours of a dense document would be no better than those of its code."""
    result = client.search(DENSE, ids=["d5", "d9"], top_n=5, rerank=100, token=tokens[1])
    sparse = client.search(DENSE, ids=["d5", "d9"], top_n=100, token=tokens[1])
    wide = EMBEDDINGS.astype(np.float16).astype(np.float64)
    for row, hits, candidates in zip((5, 9), result.hits, sparse.hits, strict=True):
        cosines = wide @ wide[row] / (np.linalg.norm(wide, axis=1) * np.linalg.norm(wide[row]))
        best = sorted((-cosines[int(hit.id[1:])], hit.id) for hit in candidates)[:5]
        assert [hit.id for hit in hits] == [id for _, id in best]
        assert f"d{row}" not in [hit.id for hit in hits]
        assert [hit.score for hit in hits] == pytest.approx([-negated for negated, _ in best], abs=1e-12)


def test_explanations_add_up_to_scores(client: Client, tokens: tuple) -> None:
    """Nobody could tell why a document was found; or the reasons would be those of another score."""
    query = Codes(CODES.latents[:1], CODES.weights[:1], FINGERPRINT)
    hits = client.search(NAME, codes=query, top_n=150, k=4, token=tokens[0]).hits[0]
    scores = {hit.id: hit.score for hit in hits}
    asked = [IDS[row] for row in range(0, 150, 2)] + ["nobody", "d0"]
    explained = client.explain(NAME, asked, codes=query, k=4, token=tokens[0])
    assert [explanation.id for explanation in explained.explanations] == asked
    for explanation in explained.explanations:
        assert explanation.found == (explanation.id != "nobody")
        assert explanation.score == scores.get(explanation.id, 0.0)
        parts = [part.contribution for part in explanation.contributions]
        assert sum(parts) == pytest.approx(explanation.score)
        assert parts == sorted(parts, reverse=True)
    assert (explained.receipt.k_query, explained.receipt.k_docs) == (4, 4)


def test_a_stored_document_may_be_explained_against_others(client: Client, tokens: tuple) -> None:
    """An explanation of a neighbour would have another score than the neighbour."""
    hits = client.search(NAME, ids=["d7"], top_n=5, token=tokens[0]).hits[0]
    explained = client.explain(NAME, [hit.id for hit in hits], query_id="d7", token=tokens[0]).explanations
    assert [explanation.score for explanation in explained] == [hit.score for hit in hits]
