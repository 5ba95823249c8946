from collections.abc import Callable

import pytest

from csr.v1 import search_pb2
from services.index.core.code import levels
from services.index.store.catalog import CollectionRecord
from services.router.query_plan import QueryIds, active_latents, lowered
from services.router.search_plan import plan_search
from services.runtime.errors import InvalidRequest, LimitExceeded


@pytest.mark.parametrize("k_max", [1, 3, 4, 8, 24, 32, 256])
def test_levels_fall_by_half_down_to_four(k_max: int) -> None:
    """An overloaded deployment would be asked at a level that documents do not answer at, or for ever."""
    k_query, k_docs, steps = 256, k_max, 0
    while (pair := lowered(k_query, k_docs)) is not None:
        assert pair[0] <= k_query
        assert pair[1] <= k_docs
        assert pair != (k_query, k_docs)
        assert pair[1] in levels(k_max)
        k_query, k_docs = pair
        steps += 1
    assert (k_query, k_docs) == (4, min(4, k_max))
    assert steps <= 8


@pytest.mark.parametrize(("pair", "lower"), [((24, 24), (16, 16)), ((4, 4), None), ((2, 8), (2, 4)), ((5, 3), (4, 3))])
def test_lower_levels(pair: tuple[int, int], lower: tuple[int, int] | None) -> None:
    """The receipt would name levels that nobody can explain."""
    assert lowered(*pair) == lower


def by_id(**changes: object) -> search_pb2.SearchRequest:
    """Return a search for what is near to two documents."""
    fields = {"ids": search_pb2.IdBatch(ids=["a", "b"]), "top_n": 3, **changes}
    return search_pb2.SearchRequest(**fields)  # type: ignore[arg-type]


def test_documents_as_queries(new_record: Callable[..., CollectionRecord]) -> None:
    """A document would take a place among its own hits, or be searched with latents that are not stored."""
    plan = plan_search(by_id(k_query=200), new_record(k_max=24))
    assert isinstance(plan.queries, QueryIds)
    assert (plan.kept_n, plan.sparse_n, plan.k_query) == (3, 4, 24)
    reranked = plan_search(by_id(rerank=999), new_record())
    assert (reranked.kept_n, reranked.sparse_n) == (999, 1000)


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"top_n": 1000}, LimitExceeded, "top_n: 1000, at most 999"),
        ({"rerank": 1000}, LimitExceeded, "rerank: 1000, at most 999"),
        ({"ids": search_pb2.IdBatch()}, InvalidRequest, "ids: empty, 1..256"),
        ({"ids": search_pb2.IdBatch(ids=["a"] * 257)}, LimitExceeded, "ids: 257, at most 256"),
        ({"ids": search_pb2.IdBatch(ids=["a", ""])}, InvalidRequest, "ids[1]: empty"),
        ({"ids": search_pb2.IdBatch(ids=["x" * 129])}, LimitExceeded, "ids[0]: 129 bytes"),
    ],
)
def test_wrong_documents_as_queries(
    new_record: Callable[..., CollectionRecord], changes: dict[str, object], error: type[Exception], text: str
) -> None:
    """A wrong request would fail far from the door, with a text that names something else."""
    with pytest.raises(error) as raised:
        plan_search(by_id(**changes), new_record())
    assert text in str(raised.value)


def test_explanations_use_the_levels_of_searches(new_record: Callable[..., CollectionRecord]) -> None:
    """An explanation would add up to another score than the search answered."""
    record = new_record(k_max=24)
    request = search_pb2.ExplainRequest(id=search_pb2.IdBatch(ids=["a"]), k=8, k_query=30)
    assert active_latents(request, QueryIds(["a"], "id"), record) == (24, 8)
