"""Payloads are replaced alone, through a real router, real index servers and a real Redis."""

import numpy as np
import pytest

from services.client import Client, Eq
from services.runtime.errors import InvalidRequest
from tests.services.router.corpus import create_codes_collection, found, random_codes
from tests.support.deployment import MODEL
from tests.support.encoder_server import clustered


def test_vectors_stay_and_filters_see_the_new_payload(client: Client, name: str) -> None:
    """A new payload would cost the document its code, or filters would go on matching the old one."""
    create_codes_collection(client, name, fields={"lang": "keyword"})
    codes = random_codes(6, seed=1)
    ids = [f"d{row}" for row in range(6)]
    client.upsert(name, ids, codes=codes, payloads=[{"lang": "de"}] * 6)
    before = client.search(name, codes=codes, where=Eq("lang", "de"))
    updated = client.update_payloads(name, ["d1", "nobody", "d3"], [{"lang": "en"}, {"lang": "en"}, None], wait=True)
    assert [result.status for result in updated.results] == ["applied", "missing", "applied"]
    assert updated.visible
    assert [document.payload for document in client.get(name, ids[:4]).documents] == [
        {"lang": "de"},
        {"lang": "en"},
        {"lang": "de"},
        None,
    ]
    assert client.get(name, ["nobody"]).missing == ["nobody"]
    english = client.search(name, codes=codes, where=Eq("lang", "en")).hits
    assert {hit.id for hits in english for hit in hits} <= {"d1"}
    after = client.search(name, codes=codes)
    assert [sorted(hits) for hits in found(after)] == [sorted(hits) for hits in found(before)]


def test_embeddings_stay(client: Client, name: str) -> None:
    """A later generation could not be built from documents whose payload was replaced."""
    client.create_collection(name, MODEL)
    embeddings = clustered(2, seed=3)
    client.upsert(name, ["a", "b"], embeddings=embeddings, payloads=[{"x": 1}, {"x": 2}])
    client.update_payloads(name, ["b"], [{"x": 3}])
    read = client.get(name, ["a", "b"], include_embeddings=True).documents
    assert [document.payload for document in read] == [{"x": 1}, {"x": 3}]
    stored = np.stack([document.embedding for document in read])
    np.testing.assert_array_equal(stored, embeddings.astype(np.float16).astype(np.float32))


def test_versions_decide(client: Client, name: str) -> None:
    """A payload that arrives late would replace a newer one."""
    create_codes_collection(client, name, versioning="client")
    client.upsert(name, ["a"], codes=random_codes(1, seed=1), payloads=[{"x": 1}], versions=[5])
    update = [
        client.update_payloads(name, ["a"], [{"x": x}], versions=[v]) for x, v in ((2, 7), (2, 7), (9, 7), (3, 6))
    ]
    assert [written.results[0].status for written in update] == ["applied", "unchanged", "conflict", "stale"]
    assert client.get(name, ["a"]).documents[0].payload == {"x": 2}


def test_declared_fields_are_checked(client: Client, name: str) -> None:
    """A payload that an index server cannot hold would get in by the back door."""
    create_codes_collection(client, name, fields={"year": "int"})
    client.upsert(name, ["a"], codes=random_codes(1, seed=1), payloads=[{"year": 1}])
    with pytest.raises(InvalidRequest, match=r"^payloads_json\[0\]\.year: 'x', the field is int"):
        client.update_payloads(name, ["a"], [{"year": "x"}])
    with pytest.raises(InvalidRequest, match=r"^payloads_json\[0\]\.year: 1.5"):
        client.upsert(name, ["a"], codes=random_codes(1, seed=1), payloads=[{"year": 1.5}])
    assert client.get(name, ["a"]).documents[0].payload == {"year": 1}
