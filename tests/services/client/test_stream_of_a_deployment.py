"""Upsert streams against real processes."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import numpy as np
import pytest

from services.client import AsyncClient, Batch, Client
from services.runtime.errors import UnknownCollection
from tests.support.deployment import MODEL, Deployment
from tests.support.encoder_server import clustered

EMBEDDINGS = clustered(3000, seed=41)
IDS = [f"d{row}" for row in range(3000)]


def batches(size: int = 200, rows: int = 3000) -> Iterator[Batch]:
    """Yield the documents."""
    for start in range(0, rows, size):
        part = slice(start, start + size)
        yield Batch(IDS[part], embeddings=EMBEDDINGS[part], payloads=[{"id": id} for id in IDS[part]])


@pytest.fixture
def client(deployment: Deployment) -> Iterator[Client]:
    """A blocking client."""
    with deployment.client(timeout_seconds=30.0) as client:
        yield client


def test_a_stream_stores_everything_once(client: Client, name: str) -> None:
    """Bulk loads would lose documents, or store them twice."""
    client.create_collection(name, MODEL, partitions=4)
    results = list(client.upsert_stream(name, batches(), stream_id="load"))
    assert [len(result.results) for result in results] == [200] * 15
    assert {each.status for result in results for each in result.results if each} == {"applied"}
    counted = client.count(name)
    assert counted.count == 3000
    positions: dict[int, int] = {}
    for result in results:
        assert result.token is not None
        positions |= result.token.positions
    assert positions == counted.token.positions
    assert results[-1].token is not None
    found = client.search(name, embeddings=EMBEDDINGS[[2999]], token=results[-1].token)
    assert "d2999" in {hit.id for hit in found.hits[0]}


async def test_an_interrupted_stream_goes_on_where_it_was(deployment: Deployment, client: Client, name: str) -> None:
    """Ctrl-C in the middle of a load would mean beginning anew."""
    client.create_collection(name, MODEL, partitions=4)

    async def source() -> AsyncIterator[Batch]:
        for batch in batches():
            yield batch

    async with AsyncClient(deployment.router.address, timeout_seconds=30.0) as interrupted:
        stream = interrupted.upsert_stream(name, source(), stream_id="load")
        for _ in range(5):
            await anext(stream)
        await stream.aclose()
    results = list(client.upsert_stream(name, batches(), stream_id="load"))
    earlier = sum(each is None for result in results for each in result.results)
    assert 5 * 200 <= earlier < 3000, "what was answered is not sent again"
    assert client.count(name).count == 3000
    versions = {document.id: document.version for document in client.get(name, IDS[:1000]).documents}
    again = list(client.upsert_stream(name, batches(), stream_id="load"))
    assert all(each is None for result in again for each in result.results)
    assert {document.id: document.version for document in client.get(name, IDS[:1000]).documents} == versions


def test_a_wrong_document_does_not_stop_the_others(client: Client, name: str) -> None:
    """One bad vector in a million would end the load."""
    client.create_collection(name, MODEL)
    wrong = EMBEDDINGS[:3].copy()
    wrong[1] = np.nan
    [result] = client.upsert_stream(name, [Batch(["a", "b", "c"], embeddings=wrong)])
    written = [each for each in result.results if each is not None]
    assert [each.status for each in written] == ["applied", "invalid", "applied"]
    assert "embeddings[1]" in written[1].error
    assert client.count(name).count == 2


def test_a_stream_to_nowhere_is_refused(client: Client) -> None:
    """A load into a mistyped name would wait for it, or look like a success."""
    with pytest.raises(UnknownCollection, match="nowhere"):
        list(client.upsert_stream("nowhere", batches()))


@pytest.mark.robustness
@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_stream_outlives_its_router(tmp_path: Path, end: str) -> None:
    """Every roll-out of routers would break the loads that run, or lose what was acknowledged."""
    deployment = Deployment(tmp_path, index_servers=1)
    try:
        deployment.start()
        with deployment.client(timeout_seconds=60.0) as client:
            client.create_collection("docs", MODEL, partitions=4)
            acknowledged = 0
            for number, result in enumerate(client.upsert_stream("docs", batches(100), stream_id="load")):
                acknowledged += len(result.results)
                if number in (3, 12):
                    getattr(deployment.router, end)()
                    deployment.router.start(wait=False)
            assert acknowledged == 3000
            assert client.count("docs").count == 3000
    finally:
        deployment.stop()
