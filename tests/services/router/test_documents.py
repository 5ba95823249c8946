"""Writes and reads of documents through a real router and a real Redis."""

import numpy as np
import pytest

from services.client import Client, Codes, WriteResult
from services.runtime.errors import InvalidRequest, WrongKind
from tests.services.index.core import oracle
from tests.services.router.corpus import FINGERPRINT, create_codes_collection, random_codes
from tests.support.deployment import MODEL, Deployment
from tests.support.encoder_server import clustered


def statuses(written: WriteResult) -> list[str]:
    """Return what became of each document."""
    return [result.status for result in written.results]


def test_what_was_stored_is_read_back(client: Client, name: str) -> None:
    """Users would get other payloads, codes or an order that they did not ask for."""
    create_codes_collection(client, name)
    codes = random_codes(5, seed=1)
    payloads = [{"title": f"ü{row}", "nested": {"numbers": [row, 1.5, None]}} for row in range(5)]
    written = client.upsert(name, ["a", "b", "c", "d", "ä€😀"], codes=codes, payloads=payloads)
    read = client.get(name, ["ä€😀", "gone", "b", "b"], include_codes=True)
    assert [document.id for document in read.documents] == ["ä€😀", "b", "b"]
    assert read.missing == ["gone"]
    assert [document.payload for document in read.documents] == [payloads[4], payloads[1], payloads[1]]
    assert [document.version for document in read.documents] == [written.results[row].version for row in (4, 1, 1)]
    for document, row in zip(read.documents, (4, 1, 1), strict=True):
        code = oracle.stored_code(codes.latents[row].tolist(), codes.weights[row].tolist())
        assert document.latents.tolist() == [latent for latent, _ in code]
        np.testing.assert_allclose(document.weights, [weight / 65535 for _, weight in code], rtol=1e-6)


def test_embeddings_are_stored_as_float16(client: Client, name: str) -> None:
    """The base embeddings that every later generation is built from would be lost or changed."""
    client.create_collection(name, MODEL)
    embeddings = clustered(3, seed=5)
    client.upsert(name, ["a", "b", "c"], embeddings=embeddings.astype(np.float64))
    read = client.get(name, ["c", "a"], include_embeddings=True)
    stored = np.stack([document.embedding for document in read.documents])
    np.testing.assert_array_equal(stored, embeddings[[2, 0]].astype(np.float16).astype(np.float32))
    assert [document.payload for document in read.documents] == [None, None]


def test_stored_codes_are_those_of_the_stored_embeddings(client: Client, deployment: Deployment, name: str) -> None:
    """A re-index from stored embeddings would give other codes than the live ones."""
    client.create_collection(name, MODEL, model_version=1)
    embeddings = clustered(300, seed=6) * 3
    ids = [f"d{row}" for row in range(300)]
    client.upsert(name, ids, embeddings=embeddings)
    read = client.get(name, ids, include_embeddings=True, include_codes=True).documents
    codes = deployment.encoder.adapters[MODEL, 1].encode(np.stack([document.embedding for document in read]), 8)
    for document, latents, weights in zip(read, codes.latents.tolist(), codes.weights.tolist(), strict=True):
        assert document.latents.tolist() == [latent for latent, _ in oracle.stored_code(latents, weights)]


def test_assigned_versions_grow(client: Client, name: str) -> None:
    """A later write would lose against an earlier one."""
    create_codes_collection(client, name)
    versions = [client.upsert(name, ["a"], codes=random_codes(1, seed=seed)).results[0].version for seed in range(5)]
    assert versions == sorted(set(versions))
    assert client.get(name, ["a"]).documents[0].version == versions[-1]


def test_client_versions_decide(client: Client, name: str) -> None:
    """Deliveries out of order would leave an old document in place of a new one."""
    create_codes_collection(client, name, versioning="client")
    first, second = random_codes(1, seed=1), random_codes(1, seed=2)
    assert statuses(client.upsert(name, ["a"], codes=first, versions=[5])) == ["applied"]
    assert statuses(client.upsert(name, ["a"], codes=first, versions=[5])) == ["unchanged"]
    assert statuses(client.upsert(name, ["a"], codes=second, versions=[5])) == ["conflict"]
    assert statuses(client.upsert(name, ["a"], codes=first, payloads=[{"x": 1}], versions=[5])) == ["conflict"]
    stale = client.upsert(name, ["a"], codes=second, versions=[4])
    assert statuses(stale) == ["stale"]
    assert stale.results[0].version == 5
    assert statuses(client.delete(name, ["a"], versions=[6])) == ["applied"]
    assert statuses(client.upsert(name, ["a"], codes=second, versions=[5])) == ["stale"]
    assert client.get(name, ["a"]).missing == ["a"]
    assert statuses(client.upsert(name, ["a"], codes=second, versions=[2**53 - 1])) == ["applied"]


def test_a_repeated_write_id_applies_once(client: Client, name: str) -> None:
    """A retry after a lost answer would store the documents again, over newer ones."""
    create_codes_collection(client, name)
    ids = [f"d{row}" for row in range(200)]
    old, new = random_codes(200, seed=1), random_codes(200, seed=2)
    first = client.upsert(name, ids, codes=old, write_id="w-1")
    newer = client.upsert(name, ids, codes=new)
    repeat = client.upsert(name, ids, codes=old, write_id="w-1")
    assert repeat.results == first.results
    assert repeat.write_id == "w-1"
    read = client.get(name, ids).documents
    assert [document.version for document in read] == [result.version for result in newer.results]
    assert client.count(name).count == 200


def test_a_write_id_of_another_write_is_refused(client: Client, name: str) -> None:
    """A write would be answered with the results of another one and never be stored."""
    create_codes_collection(client, name, partitions=1)
    client.upsert(name, ["a"], codes=random_codes(1, seed=1), write_id="w")
    with pytest.raises(InvalidRequest, match="write id was used for another write"):
        client.upsert(name, ["b"], codes=random_codes(1, seed=2), write_id="w")
    assert client.get(name, ["b"]).missing == ["b"]


def test_deletions_are_counted_and_idempotent(client: Client, name: str) -> None:
    """Counts would drift with every repeated deletion."""
    create_codes_collection(client, name)
    ids = [f"d{row}" for row in range(50)]
    client.upsert(name, ids, codes=random_codes(50, seed=1))
    assert client.count(name).count == 50
    client.delete(name, ids[:20])
    assert statuses(client.delete(name, [*ids[:20], "never-there"])) == ["applied"] * 21
    counted = client.count(name)
    assert counted.count == 30
    hits = client.search(name, codes=random_codes(1, seed=1), top_n=100, token=counted.token).hits[0]
    assert not {hit.id for hit in hits} & set(ids[:20])


def test_results_come_in_the_order_of_ids(client: Client, name: str) -> None:
    """With many partitions, a caller would take one document's conflict for another's."""
    create_codes_collection(client, name, versioning="client", partitions=16)
    ids = [f"d{row}" for row in range(300)]
    codes = random_codes(300, seed=1)
    client.upsert(name, ids[::2], codes=Codes(codes.latents[::2], codes.weights[::2], FINGERPRINT), versions=[9] * 150)
    written = client.upsert(name, ids, codes=codes, versions=[3] * 300)
    assert statuses(written) == ["stale", "applied"] * 150
    assert [result.version for result in written.results] == [9, 3] * 150


def test_embeddings_of_a_codes_collection_do_not_exist(client: Client, name: str) -> None:
    """Asking for what is not kept would return zeros."""
    create_codes_collection(client, name)
    with pytest.raises(WrongKind, match="include_embeddings"):
        client.get(name, ["a"], include_embeddings=True)


def test_nothing_found_is_an_empty_answer(client: Client, name: str) -> None:
    """Reading only unknown ids would fail instead of listing them as missing."""
    client.create_collection(name, MODEL)
    read = client.get(name, ["x", "y"], include_embeddings=True, include_codes=True)
    assert (read.documents, read.missing) == ([], ["x", "y"])


def test_texts_with_the_same_version_are_the_same_input(client: Client, name: str) -> None:
    """A repeated text would conflict with itself because its embedding differs in a last bit."""
    client.create_collection(name, MODEL, versioning="client")
    assert statuses(client.upsert(name, ["a"], texts=["red apples"], versions=[1])) == ["applied"]
    assert statuses(client.upsert(name, ["a"], texts=["red apples"], versions=[1])) == ["unchanged"]
    assert statuses(client.upsert(name, ["a"], texts=["apples red"], versions=[1])) == ["conflict"]


def test_one_write_may_fill_the_limits(client: Client, name: str) -> None:
    """1,000 documents with the largest allowed ids would be refused or answered out of order."""
    client.create_collection(name, MODEL, partitions=256)
    ids = [f"{row:0128d}" for row in range(1000)]
    embeddings = clustered(1000, seed=9)
    written = client.upsert(name, ids, embeddings=embeddings)
    assert statuses(written) == ["applied"] * 1000
    result = client.search(name, embeddings=embeddings[:3], top_n=1000, token=written.token)
    assert [hits[0].score for hits in result.hits] == pytest.approx([1.0] * 3)
    assert len(result.receipt.token.positions) == 256
