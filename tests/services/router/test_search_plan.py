from collections.abc import Callable

import numpy as np
import pytest

from csr.v1 import search_pb2
from services.index.store.catalog import CollectionRecord
from services.router.search_plan import plan_search
from services.runtime.codec import RaggedCodes, codes_to_proto, embeddings_to_proto
from services.runtime.errors import InvalidRequest, LimitExceeded, WrongKind, WrongState
from tests.services.router.corpus import FINGERPRINT

EMBEDDINGS = embeddings_to_proto(np.ones((2, 4), np.float32))
CODES = codes_to_proto(
    RaggedCodes(np.array([1], np.uint16), np.array([3], np.uint16), np.array([1], np.float32)), FINGERPRINT
)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, (24, 24)),
        ({"k": 8}, (8, 8)),
        ({"k": 8, "k_query": 200}, (200, 8)),
        ({"k_query": 5}, (5, 24)),
        ({"k_docs": 16}, (24, 16)),
        ({"k": 1, "k_docs": 24}, (1, 24)),
        ({"k": 7, "k_docs": 4}, (7, 4)),
        ({"k_query": 256, "k_docs": 1}, (256, 1)),
    ],
)
def test_active_latents(
    new_record: Callable[..., CollectionRecord], asked: dict[str, int], expected: tuple[int, int]
) -> None:
    """Queries would be answered at another k than asked for."""
    plan = plan_search(search_pb2.SearchRequest(embeddings=EMBEDDINGS, top_n=3, **asked), new_record(k_max=24))
    assert (plan.k_query, plan.k_docs) == expected


@pytest.mark.parametrize(
    ("asked", "error", "text"),
    [
        ({"k": 7}, InvalidRequest, "k: 7, documents answer at 1, 2, 4, 8, 16, 24 latents"),
        ({"k_docs": 12}, InvalidRequest, "k_docs: 12"),
        ({"k_docs": 32}, LimitExceeded, "k_docs: 32, documents of 'docs' keep at most 24"),
        ({"k": 32}, LimitExceeded, "k: 32"),
        ({"k": 300, "k_docs": 8}, LimitExceeded, "k: 300, queries use at most 256"),
        ({"k_query": 257}, LimitExceeded, "k_query: 257, queries use at most 256"),
        ({"top_n": 0}, InvalidRequest, "top_n: 0, must be 1..1000"),
        ({"top_n": 1001}, LimitExceeded, "top_n: 1001, at most 1000"),
        ({"min_score": float("nan")}, InvalidRequest, "min_score"),
        ({"rerank": 2}, InvalidRequest, "rerank: 2, must be 0 or top_n (3)..1000"),
        ({"rerank": 1001}, LimitExceeded, "rerank: 1001, at most 1000"),
        ({"token": search_pb2.Token(collection_id="other")}, WrongState, "token.collection_id: other"),
    ],
)
def test_what_cannot_be_answered_is_refused(
    new_record: Callable[..., CollectionRecord], asked: dict[str, object], error: type[Exception], text: str
) -> None:
    """A wrong search would be answered wrongly instead of being explained."""
    request = search_pb2.SearchRequest(embeddings=EMBEDDINGS, **{"top_n": 3, **asked})  # type: ignore[arg-type]
    with pytest.raises(error) as raised:
        plan_search(request, new_record(k_max=24))
    assert text in str(raised.value)


def test_rerank_needs_embeddings_on_both_sides(new_record: Callable[..., CollectionRecord]) -> None:
    """Re-ranking without embeddings would fail half-way through a search."""
    request = search_pb2.SearchRequest(codes=CODES, top_n=3, rerank=10)
    with pytest.raises(InvalidRequest, match="rerank: needs embeddings, texts or ids"):
        plan_search(request, new_record())
    with pytest.raises(WrongKind, match="rerank: collection 'docs' is of kind codes"):
        plan_search(request, new_record(kind="codes"))


def test_rerank_asks_for_more_and_keeps_the_threshold_for_last(
    new_record: Callable[..., CollectionRecord],
) -> None:
    """min_score would be applied to sparse scores although hits show cosines of embeddings."""
    record = new_record()
    asked = {"embeddings": EMBEDDINGS, "top_n": 3, "min_score": 0.5}
    plain = plan_search(search_pb2.SearchRequest(**asked), record)  # type: ignore[arg-type]
    assert (plain.sparse_n, plain.sparse_min_score) == (3, 0.5)
    reranked = plan_search(search_pb2.SearchRequest(rerank=50, **asked), record)  # type: ignore[arg-type]
    assert (reranked.sparse_n, reranked.sparse_min_score, reranked.min_score) == (50, None, 0.5)


def test_a_token_partition_beyond_the_collection_is_refused(new_record: Callable[..., CollectionRecord]) -> None:
    """A made-up token would be taken for satisfied."""
    record = new_record(partitions=4)
    token = search_pb2.Token(
        collection_id=record.collection_id, positions=[search_pb2.PartitionPosition(partition=4, lsn=1)]
    )
    with pytest.raises(InvalidRequest, match=r"token.positions: partition 4, the collection has 0..3"):
        plan_search(search_pb2.SearchRequest(embeddings=EMBEDDINGS, top_n=1, token=token), record)


def test_query_embeddings_are_rounded_as_stored_ones(new_record: Callable[..., CollectionRecord]) -> None:
    """A document searched by its own embedding would be encoded to another code than the stored one."""
    queries = np.full((1, 4), 0.1, np.float32)
    plan = plan_search(search_pb2.SearchRequest(embeddings=embeddings_to_proto(queries), top_n=1), new_record())
    np.testing.assert_array_equal(plan.queries, queries.astype(np.float16))
