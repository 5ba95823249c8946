"""Both clients against a real router."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from services.client import AsyncClient, Client, SearchResult
from services.runtime.errors import CollectionExists, InvalidVector, LimitExceeded, UnknownCollection
from tests.support.deployment import MODEL, Deployment
from tests.support.encoder_server import clustered

EMBEDDINGS = clustered(2500, seed=31)
IDS = [f"d{row}" for row in range(2500)]


@pytest.fixture
def client(deployment: Deployment) -> Iterator[Client]:
    """A blocking client."""
    with deployment.client() as client:
        yield client


@pytest.fixture
async def async_client(deployment: Deployment) -> AsyncIterator[AsyncClient]:
    """An asyncio client."""
    async with AsyncClient(deployment.router.address, timeout_seconds=10.0) as client:
        yield client


def at_once(result: SearchResult) -> SearchResult:
    """Return a result without how stale it was, which no two answers are alike."""
    return replace(result, receipt=replace(result.receipt, staleness_seconds=0.0))


def test_a_bulk_load_of_any_size(client: Client, name: str) -> None:
    """Users would have to cut their data into requests themselves."""
    client.create_collection(name, MODEL, partitions=4)
    payloads = [{"row": row} for row in range(2500)]
    written = client.upsert(name, IDS, embeddings=EMBEDDINGS, payloads=payloads, write_id="load")
    assert len(written.results) == 2500
    assert {result.status for result in written.results} == {"applied"}
    assert client.count(name).count == 2500
    assert written.token.positions == client.count(name).token.positions
    result = client.search(name, embeddings=EMBEDDINGS[[0, 1999]], top_n=2500 // 5, token=written.token)
    assert {"d0"} <= {hit.id for hit in result.hits[0]}
    repeat = client.upsert(name, IDS, embeddings=EMBEDDINGS, payloads=payloads, write_id="load")
    assert repeat.results == written.results
    assert client.count(name).token == written.token
    deleted = client.delete(name, IDS)
    assert len(deleted.results) == 2500
    assert client.count(name).count == 0


async def test_both_clients_give_the_same_answers(client: Client, async_client: AsyncClient, name: str) -> None:
    """An application that moves to asyncio would see other results."""
    created = await async_client.create_collection(name, MODEL, partitions=4, k_max=8, versioning="client")
    assert created == client.describe_collection(name).collection
    versions = list(range(1, 1202))
    ids, embeddings = IDS[:1201], EMBEDDINGS[:1201]
    written = await async_client.upsert(name, ids, embeddings=embeddings, versions=versions, write_id="w")
    assert [result.version for result in written.results] == versions
    assert written == client.upsert(name, ids, embeddings=embeddings, versions=versions, write_id="w")
    asked: dict[str, Any] = {"embeddings": EMBEDDINGS[:5], "top_n": 7, "k": 4, "rerank": 30, "token": written.token}
    assert at_once(await async_client.search(name, **asked)) == at_once(client.search(name, **asked))
    assert await async_client.count(name) == client.count(name)
    ours = await async_client.get(name, ids[:3])
    assert ours == client.get(name, ids[:3])
    assert await async_client.list_collections() == client.list_collections()
    described = await async_client.describe_collection(name)
    assert described.documents == 1201
    status = await async_client.status()
    assert [process.name for process in status.processes] == [process.name for process in client.status().processes]
    deleted = await async_client.delete(name, ids[:2], versions=[5000, 5000])
    assert [result.status for result in deleted.results] == ["applied", "applied"]
    assert await async_client.delete_collection(name) == created.collection_id
    with pytest.raises(UnknownCollection):
        await async_client.count(name)


def test_domain_errors_arrive_as_they_were_raised(client: Client, name: str) -> None:
    """Applications could not tell errors apart except by parsing texts."""
    client.create_collection(name, MODEL)
    with pytest.raises(CollectionExists):
        client.create_collection(name, MODEL)
    with pytest.raises(InvalidVector, match=r"embeddings\[1\]"):
        client.upsert(name, ["a", "b"], embeddings=np.array([[1.0] * 16, [np.nan] * 16]))
    with pytest.raises(LimitExceeded, match="top_n: 1001"):
        client.search(name, embeddings=EMBEDDINGS[:1], top_n=1001)


async def test_domain_errors_arrive_through_asyncio(async_client: AsyncClient) -> None:
    """asyncio applications would see INTERNAL for everything."""
    with pytest.raises(UnknownCollection, match="nowhere"):
        await async_client.count("nowhere")


def test_numpy_comes_back(client: Client, name: str) -> None:
    """Users would have to decode bytes."""
    client.create_collection(name, MODEL)
    client.upsert(name, ["a"], embeddings=EMBEDDINGS[:1])
    document = client.get(name, ["a"], include_embeddings=True, include_codes=True).documents[0]
    assert document.embedding is not None
    assert document.latents is not None
    assert document.weights is not None
    assert (document.embedding.dtype, document.embedding.shape) == (np.float32, (16,))
    assert document.latents.dtype == np.uint16
    assert document.weights.dtype == np.float32
    assert np.linalg.norm(document.weights) == pytest.approx(1.0, abs=1e-3)
