"""Requests within every single limit that would still cost a router its memory or its time."""

import numpy as np
import psutil
import pytest

from csr.v1 import search_pb2
from services.client import Client, Codes
from services.client.searches import search_request
from services.runtime import limits
from services.runtime.errors import InvalidRequest, LimitExceeded, error_from_rpc
from tests.services.router.corpus import FINGERPRINT, create_codes_collection, random_codes
from tests.services.router.stubs import Stubs
from tests.support.deployment import Deployment


def same_codes(rows: int) -> Codes:
    """Return codes that all find each other."""
    return Codes(np.zeros((rows, 1), np.uint16), np.ones((rows, 1), np.float32), FINGERPRINT)


def test_payloads_count_once_for_every_hit(client: Client, deployment: Deployment, name: str) -> None:
    """A few documents with large payloads, found by many queries, would take gigabytes before the answer is refused."""
    create_codes_collection(client, name)
    documents = 40
    payload = {"text": "x" * 60_000}
    written = client.upsert(
        name, [f"d{row}" for row in range(documents)], codes=same_codes(documents), payloads=[payload] * documents
    )
    fits = limits.RESPONSE_BYTES_MAX // (documents * 60_100)
    assert deployment.router.process is not None
    router = psutil.Process(deployment.router.process.pid)
    answered = client.search(name, codes=same_codes(fits), top_n=documents, include_payloads=True, token=written.token)
    assert all(hit.payload == payload for hits in answered.hits for hit in hits)
    before = router.memory_info().rss
    with pytest.raises(LimitExceeded, match=f"payloads of {200 * documents} hits"):
        client.search(name, codes=same_codes(200), top_n=documents, include_payloads=True)
    assert router.memory_info().rss - before < limits.RESPONSE_BYTES_MAX


def test_a_token_has_at_most_one_position_a_partition(client: Client, stubs: Stubs, name: str) -> None:
    """Millions of positions in one request would hold up all others."""
    create_codes_collection(client, name)
    token = client.upsert(name, ["a"], codes=random_codes(1, seed=1)).token
    request = search_request(name, codes=random_codes(1, seed=1), top_n=1, token=token)
    request.token.positions.extend([search_pb2.PartitionPosition()] * 500_000)
    with pytest.raises(Exception, match=r"token\.positions: 500001, the collection has 4 partitions") as raised:
        stubs.search.Search(request, timeout=10)
    assert isinstance(error_from_rpc(raised.value), InvalidRequest)  # type: ignore[arg-type]


@pytest.mark.parametrize("min_score", [float("nan"), float("inf"), float("-inf")])
def test_a_least_score_is_a_number(client: Client, name: str, min_score: float) -> None:
    """The refusal would name an index server that the caller knows nothing about, or come only without re-ranking."""
    create_codes_collection(client, name)
    with pytest.raises(InvalidRequest, match=r"^min_score: "):
        client.search(name, codes=random_codes(1, seed=1), min_score=min_score)


def test_the_largest_answer_is_within_the_limits(client: Client, name: str) -> None:
    """256 queries with 1,000 hits each, of the longest ids, would be refused although each limit is kept."""
    create_codes_collection(client, name, partitions=8)
    ids = [f"{row:0{limits.ID_BYTES_MAX}d}" for row in range(limits.TOP_N_MAX)]
    token = client.upsert(name, ids, codes=same_codes(len(ids))).token
    queries = same_codes(limits.QUERIES_PER_SEARCH_MAX)
    answered = client.search(name, codes=queries, top_n=limits.TOP_N_MAX, token=token)
    assert all([hit.id for hit in hits] == ids for hits in answered.hits)
