"""Everything that the door refuses: code, error and text, and that nothing is stored."""

import json
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.message import Message

from csr.v1 import control_pb2, filter_pb2, search_pb2, vector_pb2
from services.client import Client
from services.runtime import errors
from services.runtime.codec import RaggedCodes, codes_to_proto, embeddings_to_proto
from services.runtime.errors import error_from_rpc
from tests.services.router.corpus import FINGERPRINT, create_codes_collection
from tests.services.router.stubs import Stubs
from tests.support.deployment import MODEL, Deployment

CODES, DENSE, VERSIONED = "bad-codes", "bad-dense", "bad-versioned"


@pytest.fixture(scope="module", autouse=True)
def collections(deployment: Deployment) -> None:
    """One empty collection of each kind; after every test they are still empty."""
    with deployment.client() as client:
        create_codes_collection(client, CODES, fields={"lang": "keyword", "year": "int"})
        create_codes_collection(client, VERSIONED, versioning="client")
        client.create_collection(DENSE, MODEL)


def batch(latents: list[list[int]], weights: list[list[float]], fingerprint: str = FINGERPRINT) -> vector_pb2.CodeBatch:
    """Return codes from lists of latents and weights."""
    return codes_to_proto(
        RaggedCodes(
            np.array([len(row) for row in latents], np.uint16),
            np.array([latent for row in latents for latent in row], np.uint16),
            np.array([weight for row in weights for weight in row], np.float32),
        ),
        fingerprint,
    )


GOOD = batch([[3, 1]], [[2, 1]])
OTHER = search_pb2.Token(collection_id="other")
NAN, INF = float("nan"), float("inf")


def rows(*values: list[float]) -> vector_pb2.EmbeddingBatch:
    """Return embeddings from lists."""
    return embeddings_to_proto(np.array(values, np.float32))


def upsert(**changes: Any) -> search_pb2.UpsertRequest:
    """Return a good upsert of one code, but for the changes."""
    return search_pb2.UpsertRequest(**{"collection": CODES, "ids": ["a"], "codes": GOOD, **changes})


def upsert_codes(latents: list[int], weights: list[float]) -> search_pb2.UpsertRequest:
    """Return an upsert of a good code and this one."""
    return upsert(ids=["a", "b"], codes=batch([[1], latents], [[1], weights]))


def upsert_dense(**changes: Any) -> search_pb2.UpsertRequest:
    """Return an upsert to the dense collection."""
    return search_pb2.UpsertRequest(**{"collection": DENSE, "ids": ["a"], **changes})


def upsert_row(*changed: float) -> search_pb2.UpsertRequest:
    """Return an upsert of a good embedding and one that begins with these values."""
    return upsert_dense(ids=["a", "b"], embeddings=rows([1.0] * 16, [*changed, *[1.0] * (16 - len(changed))]))


def search(**changes: Any) -> search_pb2.SearchRequest:
    """Return a good search, but for the changes."""
    return search_pb2.SearchRequest(**{"collection": CODES, "codes": GOOD, "top_n": 5, **changes})


def equals(field: str) -> filter_pb2.Filter:
    """Return a filter that compares a field with a number."""
    return filter_pb2.Filter(equals=filter_pb2.Equals(field=field, value=filter_pb2.FieldValue(int=1)))


def explain(**changes: Any) -> search_pb2.ExplainRequest:
    """Return a good request for an explanation, but for the changes."""
    return search_pb2.ExplainRequest(**{"collection": CODES, "codes": GOOD, "ids": ["a"], **changes})


def update(**changes: Any) -> search_pb2.UpdatePayloadsRequest:
    """Return a good update of a payload, but for the changes."""
    return search_pb2.UpdatePayloadsRequest(**{"collection": CODES, "ids": ["a"], "payloads_json": ["{}"], **changes})


def delete_where(**changes: Any) -> search_pb2.DeleteByFilterRequest:
    """Return a good deletion by filter, but for the changes."""
    return search_pb2.DeleteByFilterRequest(**{"collection": CODES, "where": equals("year"), **changes})


def create(**changes: Any) -> control_pb2.CreateCollectionRequest:
    """Return a good request for a collection of kind codes, but for the changes."""
    asked = {
        "name": "never-created",
        "kind": control_pb2.COLLECTION_KIND_CODES,
        "model": vector_pb2.ModelVersion(name="m", fingerprint=FINGERPRINT),
        "hidden_dim": 64,
        "k_max": 8,
    }
    return control_pb2.CreateCollectionRequest(**{**asked, **changes})


def create_dense(**changes: Any) -> control_pb2.CreateCollectionRequest:
    """Return a good request for a collection of kind dense, but for the changes."""
    asked = {"name": "never-created", "kind": control_pb2.COLLECTION_KIND_DENSE}
    return control_pb2.CreateCollectionRequest(**{**asked, "model": vector_pb2.ModelVersion(name=MODEL), **changes})


def deep(levels: int) -> str:
    """Return a JSON object nested this deep."""
    return '{"a":' * levels + "1" + "}" * levels


BAD: list[tuple[Message, type[errors.CsrError], str]] = [
    # ids
    (upsert(ids=[]), errors.InvalidRequest, "ids: empty, 1..1000 are needed"),
    (upsert(ids=[""]), errors.InvalidRequest, "ids[0]: empty, 1..128 bytes"),
    (upsert(ids=["ä" * 65]), errors.LimitExceeded, "ids[0]: 130 bytes, at most 128"),
    (
        upsert(ids=["a", "b", "a"], codes=batch([[1]] * 3, [[1]] * 3)),
        errors.InvalidRequest,
        "ids[2]: 'a' was listed before",
    ),
    (upsert(ids=[f"d{row}" for row in range(1001)]), errors.LimitExceeded, "ids: 1001, at most 1000"),
    (search_pb2.DeleteRequest(collection=CODES), errors.InvalidRequest, "ids: empty"),
    (search_pb2.DeleteRequest(collection=CODES, ids=["a", "a"]), errors.InvalidRequest, "ids[1]: 'a'"),
    (search_pb2.GetRequest(collection=CODES), errors.InvalidRequest, "ids: empty"),
    (search_pb2.GetRequest(collection=CODES, ids=["a"] * 1001), errors.LimitExceeded, "ids: 1001"),
    # collections
    (upsert(collection="nowhere"), errors.UnknownCollection, "nowhere"),
    (search(collection="nowhere"), errors.UnknownCollection, "nowhere"),
    (search(collection=""), errors.UnknownCollection, ""),
    (search(collection="x" * 100_000), errors.UnknownCollection, "xxx"),
    (search_pb2.DeleteRequest(collection="nowhere", ids=["a"]), errors.UnknownCollection, "nowhere"),
    (search_pb2.GetRequest(collection="nowhere", ids=["a"]), errors.UnknownCollection, "nowhere"),
    (search_pb2.CountRequest(collection="nowhere"), errors.UnknownCollection, "nowhere"),
    (control_pb2.DescribeCollectionRequest(name="nowhere"), errors.UnknownCollection, "nowhere"),
    (control_pb2.DeleteCollectionRequest(name="nowhere"), errors.UnknownCollection, "nowhere"),
    # vectors
    (search_pb2.UpsertRequest(collection=CODES, ids=["a"]), errors.InvalidRequest, "codes: one of them is needed"),
    (upsert_dense(), errors.InvalidRequest, "embeddings, texts: one of them is needed"),
    (upsert(codes=vector_pb2.CodeBatch(fingerprint=FINGERPRINT)), errors.InvalidRequest, "codes: 0 vectors for 1 ids"),
    (upsert(ids=["a", "b"]), errors.InvalidRequest, "codes: 1 vectors for 2 ids"),
    (upsert_dense(codes=GOOD), errors.WrongKind, "codes: collection 'bad-dense' is of kind dense"),
    (
        search_pb2.UpsertRequest(collection=CODES, ids=["a"], embeddings=rows([1.0])),
        errors.WrongKind,
        "embeddings: collection 'bad-codes' is of kind codes",
    ),
    # embeddings
    (upsert_row(1, NAN), errors.InvalidVector, "embeddings[1][1]: nan"),
    (upsert_row(INF), errors.InvalidVector, "embeddings[1][0]: inf"),
    (upsert_row(-INF), errors.InvalidVector, "embeddings[1][0]: -inf"),
    (upsert_row(1, 1, 70_000), errors.InvalidVector, "embeddings[1][2]: 70000.0, must be finite and within ±65504"),
    (upsert_row(*[0] * 16), errors.InvalidVector, "embeddings[1]: all zeros"),
    (upsert_row(*[1e-9] * 16), errors.InvalidVector, "embeddings[1]: all zeros (in float16)"),
    (upsert_dense(embeddings=rows([1.0] * 15)), errors.InvalidVector, "embeddings.dim: 15, the model takes 16"),
    (
        upsert_dense(embeddings=vector_pb2.EmbeddingBatch(count=1, dim=16, values=b"xyz")),
        errors.InvalidRequest,
        "embeddings.values: 3 bytes",
    ),
    (
        upsert_dense(embeddings=vector_pb2.EmbeddingBatch(count=1, dim=2**31, values=b"")),
        errors.InvalidVector,
        "embeddings.dim",
    ),
    # texts
    (upsert_dense(texts=vector_pb2.TextBatch(texts=[""])), errors.InvalidRequest, "texts[0]: empty"),
    (upsert_dense(texts=vector_pb2.TextBatch(texts=["x" * 65_537])), errors.LimitExceeded, "texts[0]: 65537 bytes"),
    (upsert_dense(texts=vector_pb2.TextBatch(texts=["x " * 17])), errors.LimitExceeded, "texts[0] has 17 tokens"),
    # codes
    (upsert_codes([1, 64], [2, 1]), errors.InvalidVector, "codes[1][1]: latent 64, weight 1.0: latents are 0..63"),
    (upsert_codes([5, 2, 5], [3, 2, 1]), errors.InvalidVector, "codes[1][2]: latent 5, weight 1.0: latents are unique"),
    (upsert_codes([1, 2], [2, NAN]), errors.InvalidVector, "codes[1][1]: latent 2, weight nan: weights are finite"),
    (upsert_codes([1], [INF]), errors.InvalidVector, "weights are finite"),
    (upsert_codes([1, 2], [2, -1]), errors.InvalidVector, "codes[1][1]: latent 2, weight -1.0: weights are positive"),
    (upsert_codes([1, 2], [0, 1]), errors.InvalidVector, "weights are positive"),
    (upsert_codes([1, 2], [1, 2]), errors.InvalidVector, "codes[1][1]: latent 2, weight 2.0: weights descend"),
    (upsert_codes(list(range(9)), [1] * 9), errors.LimitExceeded, "codes[1]: 9 active latents, at most 8"),
    (upsert(codes=batch([[1]], [[1]], "cd" * 16)), errors.FingerprintMismatch, f"codes.fingerprint: {'cd' * 16}"),
    (upsert(codes=batch([[1]], [[1]], "")), errors.FingerprintMismatch, "codes.fingerprint: none"),
    (
        upsert(codes=vector_pb2.CodeBatch(count=1, lengths=b"\1", fingerprint=FINGERPRINT)),
        errors.InvalidRequest,
        "codes.lengths: 1 bytes",
    ),
    (
        upsert(codes=vector_pb2.CodeBatch(count=1, lengths=b"\1\0", latents=b"\1", fingerprint=FINGERPRINT)),
        errors.InvalidRequest,
        "codes.latents: 1 bytes",
    ),
    # payloads
    (upsert(payloads_json=["{}", "{}"]), errors.InvalidRequest, "payloads_json: 2, either one for each of 1 ids"),
    (upsert(payloads_json=[""]), errors.InvalidRequest, "payloads_json[0]: not JSON"),
    (upsert(payloads_json=["[1]"]), errors.InvalidRequest, "payloads_json[0]: a JSON object is needed, not list"),
    (upsert(payloads_json=["null"]), errors.InvalidRequest, "a JSON object is needed, not NoneType"),
    (upsert(payloads_json=['{"a":NaN}']), errors.InvalidRequest, "payloads_json[0]: not JSON: NaN is not JSON"),
    (upsert(payloads_json=['{"a":1']), errors.InvalidRequest, "payloads_json[0]: not JSON"),
    (upsert(payloads_json=[deep(10_000)]), errors.LimitExceeded, "payloads_json[0]: nested too deeply"),
    (
        upsert(payloads_json=[deep(101)]),
        errors.LimitExceeded,
        "payloads_json[0]: nested too deeply, at most 100",
    ),
    (
        upsert(payloads_json=[json.dumps({"a": "x" * 65_536})]),
        errors.LimitExceeded,
        "payloads_json[0]: 65545 bytes, at most 65536",
    ),
    # versions and write ids
    (upsert(versions=[1]), errors.InvalidRequest, "versions: the store assigns"),
    (upsert(collection=VERSIONED), errors.InvalidRequest, "versions: 0, this collection needs one for each of 1 ids"),
    (upsert(collection=VERSIONED, versions=[0]), errors.InvalidRequest, "versions[0]: 0, must be 1..9007199254740991"),
    (upsert(collection=VERSIONED, versions=[2**53]), errors.LimitExceeded, "versions[0]: 9007199254740992, at most"),
    (search_pb2.DeleteRequest(collection=VERSIONED, ids=["a"]), errors.InvalidRequest, "versions: 0"),
    (upsert(write_id="w" * 65), errors.LimitExceeded, "write_id: 65 bytes, at most 64"),
    # searches
    (search_pb2.SearchRequest(collection=CODES, top_n=1), errors.InvalidRequest, "codes, ids: one of them is needed"),
    (search(codes=vector_pb2.CodeBatch(fingerprint=FINGERPRINT)), errors.InvalidRequest, "codes: empty, 1..256"),
    (search(codes=batch([[1]] * 257, [[1]] * 257)), errors.LimitExceeded, "codes: 257, at most 256"),
    (search(codes=batch([list(range(64))], [[1] * 64]), k_query=300), errors.LimitExceeded, "k_query: 300"),
    (search(codes=batch([[64]], [[1]])), errors.InvalidVector, "codes[0][0]: latent 64"),
    (search(codes=batch([[1]], [[1]], "cd" * 16)), errors.FingerprintMismatch, "codes.fingerprint"),
    (search(top_n=0), errors.InvalidRequest, "top_n: 0, must be 1..1000"),
    (search(top_n=1001), errors.LimitExceeded, "top_n: 1001, at most 1000"),
    (search(k=3), errors.InvalidRequest, "k: 3, documents answer at 1, 2, 4, 8 latents"),
    (search(k_docs=16), errors.LimitExceeded, "k_docs: 16"),
    (search(rerank=10), errors.WrongKind, "rerank"),
    (search(min_score=NAN), errors.InvalidRequest, "min_score"),
    (search(token=search_pb2.Token(collection_id="x")), errors.WrongState, "token.collection_id"),
    (
        search_pb2.SearchRequest(collection=DENSE, embeddings=rows([1.0, 2.0]), top_n=1),
        errors.InvalidVector,
        "embeddings.dim: 2, the model takes 16",
    ),
    (
        search_pb2.SearchRequest(collection=DENSE, texts=vector_pb2.TextBatch(texts=["a", ""]), top_n=1),
        errors.InvalidRequest,
        "texts[1]: empty",
    ),
    (
        search(ids=search_pb2.IdBatch(ids=["nobody"]), codes=None),
        errors.UnknownDocument,
        "ids[0]: no document 'nobody'",
    ),
    (search(where=equals("colour")), errors.InvalidRequest, "where.equals.field: 'colour' is not declared"),
    (search(where=filter_pb2.Filter(range=filter_pb2.Range(field="year"))), errors.InvalidRequest, "where.range: gte"),
    # counts, pages, explanations
    (search_pb2.CountRequest(collection=CODES, where=equals("lang")), errors.InvalidRequest, "where.equals.value"),
    (search_pb2.CountRequest(collection=CODES, token=OTHER), errors.WrongState, "token.collection_id"),
    (search_pb2.ScrollRequest(collection=CODES), errors.InvalidRequest, "limit: 0, must be 1..1000"),
    (search_pb2.ScrollRequest(collection=CODES, limit=1001), errors.LimitExceeded, "limit: 1001"),
    (search_pb2.ScrollRequest(collection=CODES, limit=1, cursor="x"), errors.InvalidRequest, "cursor: not one that"),
    (search_pb2.ScrollRequest(collection=CODES, limit=1, token=OTHER), errors.WrongState, "token.collection_id"),
    (search_pb2.ScrollRequest(collection="nowhere", limit=1), errors.UnknownCollection, "nowhere"),
    (explain(ids=[]), errors.InvalidRequest, "ids: empty, 1..100"),
    (explain(ids=["a"] * 101), errors.LimitExceeded, "ids: 101, at most 100"),
    (explain(codes=batch([[1], [2]], [[1], [1]])), errors.LimitExceeded, "codes: 2, at most 1"),
    (explain(codes=None), errors.InvalidRequest, "codes, id: one of them is needed"),
    (explain(codes=None, id=search_pb2.IdBatch(ids=["x", "y"])), errors.LimitExceeded, "id: 2, at most 1"),
    (explain(codes=None, id=search_pb2.IdBatch(ids=["x"])), errors.UnknownDocument, "id[0]: no document 'x'"),
    (explain(k=3), errors.InvalidRequest, "k: 3, documents answer at"),
    # payload updates and deletions by filter
    (update(payloads_json=[]), errors.InvalidRequest, "payloads_json: 0, one for each of 1 ids"),
    (update(payloads_json=["1"]), errors.InvalidRequest, "payloads_json[0]: a JSON object is needed"),
    (update(payloads_json=['{"year":true}']), errors.InvalidRequest, "payloads_json[0].year: True, the field is int"),
    (update(ids=["a", "a"], payloads_json=["", ""]), errors.InvalidRequest, "ids[1]: 'a' was listed before"),
    (update(versions=[1]), errors.InvalidRequest, "versions: the store assigns"),
    (update(write_id="w" * 65), errors.LimitExceeded, "write_id: 65 bytes"),
    (upsert(payloads_json=['{"lang":1}']), errors.InvalidRequest, "payloads_json[0].lang: 1, the field is keyword"),
    (search_pb2.DeleteByFilterRequest(collection=CODES), errors.InvalidRequest, "where: needed"),
    (delete_where(version=1), errors.InvalidRequest, "version: the store assigns"),
    (delete_where(token=OTHER), errors.WrongState, "token.collection_id"),
    # collections to create
    (create(name="Upper"), errors.InvalidRequest, "name: 'Upper'"),
    (create(name=""), errors.InvalidRequest, "name: ''"),
    (create(name="1abc"), errors.InvalidRequest, "name: '1abc'"),
    (create(name="a" * 65), errors.InvalidRequest, "name:"),
    (create(name="with space\n"), errors.InvalidRequest, "name:"),
    (create(kind=control_pb2.COLLECTION_KIND_UNSPECIFIED), errors.InvalidRequest, "kind:"),
    (create(kind=7), errors.InvalidRequest, "kind:"),
    (create(versioning=7), errors.InvalidRequest, "versioning:"),
    (create(partitions=257), errors.LimitExceeded, "partitions: 257, at most 256"),
    (create(hidden_dim=0), errors.InvalidRequest, "hidden_dim: 0, must be 1..65536"),
    (create(hidden_dim=65_537), errors.LimitExceeded, "hidden_dim: 65537, at most 65536"),
    (create(k_max=0), errors.InvalidRequest, "k_max: 0, must be 1..256"),
    (create(k_max=257), errors.LimitExceeded, "k_max: 257, at most 256"),
    (create(k_max=65), errors.LimitExceeded, "k_max: 65, there are 64 latents"),
    (create(model=vector_pb2.ModelVersion(name="m")), errors.InvalidRequest, "model.fingerprint: ''"),
    (
        create(model=vector_pb2.ModelVersion(name="m", fingerprint=FINGERPRINT.upper())),
        errors.InvalidRequest,
        "model.fingerprint",
    ),
    (create(model=vector_pb2.ModelVersion()), errors.InvalidRequest, "model.name: empty"),
    (create(model=vector_pb2.ModelVersion(name="m" * 251)), errors.LimitExceeded, "model.name: 251 bytes"),
    (create(fields={"1a": 1}), errors.InvalidRequest, "fields: '1a', 1..64 characters"),
    (create(fields={"a": 0}), errors.InvalidRequest, "fields[a]: type 0, one of FIELD_TYPE_KEYWORD"),
    (create(fields={"a": 9}), errors.InvalidRequest, "fields[a]: type 9"),
    (create(fields={f"f{number}": 1 for number in range(33)}), errors.LimitExceeded, "fields: 33, at most 32"),
    (create_dense(hidden_dim=64), errors.InvalidRequest, "hidden_dim: the model of a collection of kind dense says"),
    (create_dense(k_max=16), errors.LimitExceeded, "k_max: 16, the model has 8"),
    (create_dense(model=vector_pb2.ModelVersion(name="none")), errors.UnknownVersion, "'none'"),
    (create_dense(model=vector_pb2.ModelVersion(name=MODEL, version=9)), errors.UnknownVersion, "version 9"),
    (
        create_dense(model=vector_pb2.ModelVersion(name=MODEL, fingerprint=FINGERPRINT)),
        errors.FingerprintMismatch,
        "model.fingerprint",
    ),
    (create(name=CODES), errors.CollectionExists, CODES),
    # size
    (upsert(payloads_json=["x" * (5 << 20)]), errors.LimitExceeded, "at most 4194304 are allowed"),
]

METHODS: dict[type[Message], Callable[[Stubs], Callable[..., Message]]] = {
    search_pb2.UpsertRequest: lambda stubs: stubs.search.Upsert,
    search_pb2.DeleteRequest: lambda stubs: stubs.search.Delete,
    search_pb2.GetRequest: lambda stubs: stubs.search.Get,
    search_pb2.CountRequest: lambda stubs: stubs.search.Count,
    search_pb2.SearchRequest: lambda stubs: stubs.search.Search,
    search_pb2.ScrollRequest: lambda stubs: stubs.search.Scroll,
    search_pb2.ExplainRequest: lambda stubs: stubs.search.Explain,
    search_pb2.UpdatePayloadsRequest: lambda stubs: stubs.search.UpdatePayloads,
    search_pb2.DeleteByFilterRequest: lambda stubs: stubs.search.DeleteByFilter,
    control_pb2.CreateCollectionRequest: lambda stubs: stubs.control.CreateCollection,
    control_pb2.DescribeCollectionRequest: lambda stubs: stubs.control.DescribeCollection,
    control_pb2.DeleteCollectionRequest: lambda stubs: stubs.control.DeleteCollection,
}


@pytest.mark.parametrize(
    ("request_", "error", "text"), BAD, ids=[f"{number}-{text[:40]}" for number, (_, _, text) in enumerate(BAD)]
)
def test_bad_input_is_refused_by_name(
    stubs: Stubs, client: Client, request_: Message, error: type[errors.CsrError], text: str
) -> None:
    """Users would see a wrong code or a text that does not say what to fix; or rubbish would be stored."""
    with pytest.raises(grpc.RpcError) as raised:
        METHODS[type(request_)](stubs)(request_, timeout=10)
    refused = error_from_rpc(raised.value)
    assert type(refused) is error
    assert raised.value.code() is errors.STATUS[error]  # type: ignore[attr-defined]
    assert text in str(refused)
    for name in (CODES, DENSE, VERSIONED):
        counted = client.count(name)
        assert counted.count == 0
        assert set(counted.token.positions.values()) == {0}, "nothing was ever written"


def test_nothing_was_created(client: Client) -> None:
    """Refused requests would leave collections behind."""
    assert "never-created" not in [collection.name for collection in client.list_collections()]


def test_a_message_beyond_all_limits_is_refused(stubs: Stubs) -> None:
    """One huge message would exhaust the router's memory."""
    with pytest.raises(grpc.RpcError) as raised:
        stubs.search.Upsert(upsert(payloads_json=["x" * (9 << 20)]), timeout=10)
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED  # type: ignore[attr-defined]
