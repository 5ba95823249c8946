"""Records whose bytes changed in the store, as a real Redis holds them."""

import numpy as np
import pytest
import redis

from services.client import Client
from services.index.store.keys import partition_keys, partition_of
from services.runtime.errors import CorruptRecord, StoreUnavailable
from tests.services.router.corpus import create_codes_collection, found, random_codes
from tests.support.deployment import MODEL, Deployment
from tests.support.encoder_server import clustered


def damage(deployment: Deployment, client: Client, name: str, id: str) -> None:
    """Flip one bit of a stored record."""
    collection = client.describe_collection(name).collection
    key = partition_keys(collection.collection_id, partition_of(id, collection.partitions)).docs
    with redis.Redis.from_url(deployment.redis.url) as store:
        raw = bytearray(store.hget(key, id))  # type: ignore[arg-type]
        raw[-1] ^= 1
        store.hset(key, id, bytes(raw))  # type: ignore[arg-type]


def test_a_damaged_record_costs_its_payload_only(client: Client, deployment: Deployment, name: str) -> None:
    """One damaged record would fail every search that finds it; or its damaged payload would be served."""
    create_codes_collection(client, name)
    codes = random_codes(30, seed=1)
    ids = [f"d{row}" for row in range(30)]
    token = client.upsert(name, ids, codes=codes, payloads=[{"row": row} for row in range(30)]).token
    before = client.search(name, codes=codes, top_n=30, include_payloads=True, token=token)
    counted = deployment.router.metric("csr_router_damaged_records_total")
    damage(deployment, client, name, "d7")
    after = client.search(name, codes=codes, top_n=30, include_payloads=True)
    assert found(after) == found(before)
    assert after.receipt.payloads_missing
    for hits in after.hits:
        assert all(hit.payload == (None if hit.id == "d7" else {"row": int(hit.id[1:])}) for hit in hits)
    assert deployment.router.metric("csr_router_damaged_records_total") == counted + 1
    assert not client.search(name, codes=codes, top_n=30).receipt.payloads_missing
    with pytest.raises(CorruptRecord, match="d7"):
        client.get(name, ["d7"])
    with pytest.raises(CorruptRecord, match="d7"):
        client.search(name, ids=["d7"])


def test_what_cannot_be_scored_is_not_ranked(client: Client, deployment: Deployment, name: str) -> None:
    """A re-ranked answer would silently lack the document that may be the best one."""
    client.create_collection(name, MODEL, partitions=2)
    embeddings = clustered(40, seed=2)
    token = client.upsert(name, [f"d{row}" for row in range(40)], embeddings=embeddings).token
    client.search(name, embeddings=embeddings[3:4], token=token)  # the index has read it by now
    damage(deployment, client, name, "d3")
    with pytest.raises(CorruptRecord, match=r"^rerank: .*'d3'.*search without it"):
        client.search(name, embeddings=embeddings[3:4], rerank=40, token=token)
    assert "d3" in [hit.id for hit in client.search(name, embeddings=embeddings[3:4], top_n=40).hits[0]]
    client.upsert(name, ["d3"], embeddings=np.ascontiguousarray(embeddings[3:4]))
    assert client.search(name, embeddings=embeddings[3:4], top_n=1, rerank=40).hits[0][0].score == pytest.approx(1.0)


def test_a_list_without_its_payloads_is_not_taken_for_whole(client: Client, deployment: Deployment, name: str) -> None:
    """A copy of a collection would silently lack the payloads that could not be read."""
    create_codes_collection(client, name)
    payloads = [{"row": row} for row in range(10)]
    token = client.upsert(name, [f"d{row}" for row in range(10)], codes=random_codes(10, 1), payloads=payloads).token
    assert [document.payload for document in client.scroll(name, include_payloads=True, token=token)] == payloads
    damage(deployment, client, name, "d7")
    with pytest.raises(StoreUnavailable, match="payloads of documents 'd0' to 'd9'"):
        list(client.scroll(name, include_payloads=True))
    assert len(list(client.scroll(name))) == 10
    page = client.scroll_page(name, include_payloads=True)
    assert [document.id for document in page.documents if document.payload is None] == ["d7"]
