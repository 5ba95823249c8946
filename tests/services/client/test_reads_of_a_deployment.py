"""Filters, scrolling, explanations and changes by filter, with both clients, against real processes."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from services.client import And, AsyncClient, Client, Eq, In, Not, Range
from services.client.types import FieldType
from services.runtime.errors import InvalidRequest
from tests.support.deployment import MODEL, Deployment
from tests.support.encoder_server import clustered

ROWS = 2_300
EMBEDDINGS = clustered(ROWS, seed=71)
IDS = [f"d{row:04}" for row in range(ROWS)]
LANGUAGES = ("de", "en", "fr")
FIELDS: dict[str, FieldType] = {"lang": "keyword", "year": "int"}
PAYLOADS = [{"lang": LANGUAGES[row % 3], "year": 2000 + row % 20} for row in range(ROWS)]

Call = Callable[..., Any]


@pytest.fixture
def client(deployment: Deployment) -> Iterator[Client]:
    """A blocking client."""
    with deployment.client(timeout_seconds=30.0) as client:
        yield client


@pytest.fixture(params=["blocking", "asyncio"])
def call(request: pytest.FixtureRequest, deployment: Deployment, client: Client) -> Call:
    """Return a function that calls a method, by name, of either client."""

    async def asynchronously(method: str, *arguments: Any, **named: Any) -> Any:
        async with AsyncClient(deployment.router.address, timeout_seconds=30.0) as client:
            result = getattr(client, method)(*arguments, **named)
            return [each async for each in result] if method == "scroll" else await result

    def blocking(method: str, *arguments: Any, **named: Any) -> Any:
        result = getattr(client, method)(*arguments, **named)
        return list(result) if method == "scroll" else result

    if request.param == "blocking":
        return blocking
    return lambda method, *arguments, **named: asyncio.run(asynchronously(method, *arguments, **named))


@pytest.fixture
def filled(client: Client, name: str) -> Iterator[str]:
    """A collection with declared fields, all of it visible."""
    client.create_collection(name, MODEL, partitions=4, fields=FIELDS)
    assert client.upsert(name, IDS, embeddings=EMBEDDINGS, payloads=PAYLOADS, wait=True).visible
    yield name
    client.delete_collection(name)


def test_a_filter_lets_through_what_matches(call: Call, filled: str) -> None:
    """Searches would find documents of other users, years or languages."""
    where = And([In("lang", ["de", "en"]), Range("year", gte=2015), Not(Eq("year", 2017))])
    matching = {
        id
        for id, payload in zip(IDS, PAYLOADS, strict=True)
        if payload["lang"] != "fr" and payload["year"] >= 2015 and payload["year"] != 2017
    }
    assert call("count", filled, where=where).count == len(matching)
    found = call("search", filled, embeddings=EMBEDDINGS[:3], top_n=1000, where=where)
    assert {hit.id for hits in found.hits for hit in hits} <= matching
    assert found.hits[0]
    assert {document.id for document in call("scroll", filled, where=where)} == matching
    with pytest.raises(InvalidRequest, match="colour"):
        call("search", filled, embeddings=EMBEDDINGS[:1], where=Eq("colour", "red"))


def test_scrolling_sees_every_document_once(call: Call, filled: str) -> None:
    """Exports would lose documents, or hold them twice."""
    documents = call("scroll", filled, include_payloads=True)
    assert [document.id for document in documents] == IDS
    assert [document.payload for document in documents] == PAYLOADS
    page = call("scroll_page", filled, limit=10)
    assert [document.id for document in page.documents] == IDS[:10]
    assert page.documents[0].payload is None
    assert page.receipt.coverage == 1.0
    following = call("scroll_page", filled, limit=10, cursor=page.next_cursor)
    assert [document.id for document in following.documents] == IDS[10:20]


def test_an_explanation_adds_up_to_the_score(call: Call, filled: str) -> None:
    """Explanations would be stories about another score."""
    found = call("search", filled, embeddings=EMBEDDINGS[[5]], top_n=5)
    ids = [hit.id for hit in found.hits[0]]
    explained = call("explain", filled, [*ids, "nowhere"], embeddings=EMBEDDINGS[[5]])
    for hit, explanation in zip(found.hits[0], explained.explanations, strict=False):
        assert (explanation.id, explanation.found, explanation.score) == (hit.id, True, hit.score)
        parts = [part.contribution for part in explanation.contributions]
        assert parts == sorted(parts, reverse=True)
        assert sum(parts) == pytest.approx(hit.score)
    assert not explained.explanations[-1].found


def test_stored_documents_are_queries(call: Call, filled: str) -> None:
    """ "More like this" would need the embedding again, or find the document itself."""
    by_id = call("search", filled, ids=[IDS[7]], top_n=20)
    by_embedding = call("search", filled, embeddings=EMBEDDINGS[[7]].astype(np.float16), top_n=21)
    assert [hit for hit in by_embedding.hits[0] if hit.id != IDS[7]][:20] == by_id.hits[0]
    own = call("explain", filled, [IDS[7]], query_id=IDS[7])
    assert own.explanations[0].score == pytest.approx(1.0)


def test_payloads_change_and_vectors_stay(call: Call, filled: str) -> None:
    """A changed label would need the embedding again, or change what is found."""
    before = call("search", filled, embeddings=EMBEDDINGS[[9]], top_n=3)
    written = call("update_payloads", filled, [IDS[9], IDS[10], "nowhere"], [{"lang": "it"}, None, {}], wait=True)
    assert [result.status for result in written.results] == ["applied", "applied", "missing"]
    assert written.visible
    assert call("search", filled, embeddings=EMBEDDINGS[[9]], top_n=3).hits == before.hits
    assert [document.payload for document in call("get", filled, IDS[9:11]).documents] == [{"lang": "it"}, None]
    assert [document.id for document in call("scroll", filled, where=Eq("lang", "it"))] == [IDS[9]]


def test_what_matches_is_deleted(call: Call, filled: str) -> None:
    """Erasing a tenant would leave documents, or take those of others."""
    where = Eq("lang", "fr")
    matching = call("count", filled, where=where).count
    deletion = call("delete_where", filled, where, wait=True)
    assert (deletion.deleted, deletion.skipped, deletion.visible) == (matching, 0, True)
    assert call("count", filled, where=where).count == 0
    assert call("count", filled, token=deletion.token).count == ROWS - matching


def test_a_receipt_says_what_answered(call: Call, filled: str) -> None:
    """An application could not tell a whole answer from a partial, lowered or old one."""
    receipt = call("search", filled, embeddings=EMBEDDINGS[:1], allow_partial=True, allow_lower_k=True).receipt
    assert (receipt.coverage, receipt.missing_partitions, receipt.k_lowered) == (1.0, [], False)
    assert 0.0 <= receipt.staleness_seconds < 60.0
    described = call("describe_collection", filled)
    assert described.collection.fields == FIELDS
    assert all(0.0 <= partition.staleness_seconds < 60.0 for partition in described.partitions)
