from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from csr.v1 import search_pb2
from services.client import Batch, Codes
from services.client.searches import search_request
from services.client.writes import batch_slices, delete_requests, update_payloads_requests, upsert_requests
from services.runtime import limits
from services.runtime.codec import codes_from_proto
from services.runtime.errors import InvalidRequest, InvalidVector

FINGERPRINT = "ab" * 16


def upserts(ids: list[str], **given_: Any) -> list[search_pb2.UpsertRequest]:
    """Return the requests of one upsert."""
    return list(upsert_requests("docs", Batch(ids, **given_), "w", allow_truncation=False, wait=False))


@given(st.lists(st.integers(1, 3_000_000), max_size=1500))
def test_batches_cover_everything_once_and_keep_the_limits(sizes: list[int]) -> None:
    """Bulk loads would lose documents, or be refused for their size."""
    slices = list(batch_slices(sizes))
    assert [row for rows in slices for row in range(rows.start, rows.stop)] == list(range(len(sizes)))
    for rows in slices:
        assert 1 <= rows.stop - rows.start <= limits.DOCUMENTS_PER_REQUEST_MAX
        assert sum(sizes[rows]) <= limits.REQUEST_BYTES_MAX or rows.stop - rows.start == 1


def test_batches_are_as_large_as_the_limits_allow() -> None:
    """Bulk loads would take many small requests."""
    assert [rows.stop for rows in batch_slices([1] * 2500)] == [1000, 2000, 2500]


@pytest.mark.parametrize(
    ("count", "dim", "payload_bytes"), [(1000, 1024, 0), (1000, 4, 60_000), (300, 16_384, 100), (2001, 8, 1)]
)
def test_no_request_exceeds_what_a_server_answers(count: int, dim: int, payload_bytes: int) -> None:
    """Large documents would be refused although each of them is within the limits."""
    ids = [f"{row:0128d}" for row in range(count)]
    payloads = [{"text": "ä" * (payload_bytes // 2)}] * count
    requests = upserts(ids, embeddings=np.ones((count, dim)), payloads=payloads, versions=list(range(1, count + 1)))
    assert max(request.ByteSize() for request in requests) <= limits.REQUEST_BYTES_MAX
    assert [id for request in requests for id in request.ids] == ids
    assert [version for request in requests for version in request.versions] == list(range(1, count + 1))
    assert sum(request.embeddings.count for request in requests) == count


def test_texts_and_codes_are_counted_too() -> None:
    """Requests of long texts or wide codes would exceed the limit."""
    texts = ["x" * 60_000] * 200
    ids = [f"d{row}" for row in range(200)]
    assert max(request.ByteSize() for request in upserts(ids, texts=texts)) <= limits.REQUEST_BYTES_MAX
    latents = np.tile(np.arange(256, dtype=np.uint16), (5000, 1))
    codes = Codes(latents, np.ones(latents.shape, np.float32), FINGERPRINT)
    requests = upserts([f"d{row}" for row in range(5000)], codes=codes)
    assert max(request.ByteSize() for request in requests) <= limits.REQUEST_BYTES_MAX


def test_the_same_write_makes_the_same_requests() -> None:
    """A repeated bulk load would store its documents twice."""
    ids = [f"d{row}" for row in range(2500)]
    embeddings = np.random.default_rng(1).normal(size=(2500, 8))
    first, second = upserts(ids, embeddings=embeddings), upserts(ids, embeddings=embeddings)
    assert first == second
    assert [request.write_id for request in first] == ["w/0", "w/1", "w/2"]
    assert [request.write_id for request in upserts(["a"], embeddings=embeddings[:1])] == ["w"]
    deletions = list(delete_requests("docs", ids, None, "w", wait=False))
    assert [request.write_id for request in deletions] == ["w/0", "w/1", "w/2"]
    assert [id for request in deletions for id in request.ids] == ids


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"embeddings": np.ones((3, 4))}, "vectors: 3 for 2 ids"),
        ({"embeddings": np.ones((2, 4)), "payloads": [{}]}, "payloads: 1 for 2 ids"),
        ({"embeddings": np.ones((2, 4)), "versions": [1]}, "versions: 1 for 2 ids"),
        ({"embeddings": np.ones(4)}, r"embeddings: shape \[4\]"),
        ({}, "exactly one of them is needed, not 0"),
        ({"embeddings": np.ones((2, 4)), "texts": ["a", "b"]}, "exactly one of them is needed, not 2"),
        ({"embeddings": np.ones((2, 4)), "payloads": [{}, {"x": float("nan")}]}, r"payloads\[1\]: not JSON"),
        ({"embeddings": np.ones((2, 4)), "payloads": [{"x": {1, 2}}, {}]}, r"payloads\[0\]: not JSON"),
        ({"codes": Codes(np.zeros((2, 3), np.uint16), np.zeros((2, 2), np.float32), FINGERPRINT)}, "codes: latents"),
        ({"codes": Codes(np.full((2, 1), 70_000), np.ones((2, 1), np.float32), FINGERPRINT)}, "codes: latents lie in"),
    ],
)
def test_what_does_not_fit_together_is_refused_before_it_is_sent(fields: dict[str, object], text: str) -> None:
    """Half of a bulk load would be stored before the mistake shows, or documents get each other's payloads."""
    with pytest.raises(InvalidRequest, match=text):
        upserts(["a", "b"], **fields)


def test_an_empty_write_is_refused() -> None:
    """A bulk load of nothing would look like a success."""
    with pytest.raises(InvalidRequest, match="ids: empty"):
        upserts([], embeddings=np.ones((0, 4)))
    with pytest.raises(InvalidRequest, match="ids: empty"):
        list(delete_requests("docs", [], None, "w", wait=False))


@given(st.lists(st.lists(st.integers(1, 100), max_size=6), min_size=1, max_size=8))
def test_codes_cross_the_wire_without_their_padding(weights: list[list[int]]) -> None:
    """Codes would gain latents with weight 0, or lose some."""
    rows = [sorted(row, reverse=True) for row in weights]
    latents = np.zeros((len(rows), 6), np.uint16)
    padded = np.zeros((len(rows), 6), np.float32)
    for number, row in enumerate(rows):
        latents[number, : len(row)], padded[number, : len(row)] = range(len(row)), row
    request = upserts([f"d{number}" for number in range(len(rows))], codes=Codes(latents, padded, FINGERPRINT))[0]
    codes = codes_from_proto(request.codes, "codes", 64, 6, FINGERPRINT)
    assert codes.lengths.tolist() == [len(row) for row in rows]
    assert codes.weights.tolist() == [weight for row in rows for weight in row]
    assert codes.latents.tolist() == [latent for row in rows for latent in range(len(row))]


def test_wrong_weights_are_left_for_the_server_to_judge() -> None:
    """A negative weight would be dropped as padding and a wrong code stored."""
    codes = Codes(np.array([[1, 2, 0]]), np.array([[2.0, -1.0, 0.0]]), FINGERPRINT)
    request = upserts(["a"], codes=codes)[0]
    with pytest.raises(InvalidVector, match="weights are positive"):
        codes_from_proto(request.codes, "codes", 64, 6, FINGERPRINT)


def test_absent_options_stay_absent() -> None:
    """min_score 0 and no min_score would be the same, and an empty token would ask for a wait."""
    without = search_request("docs", texts=["a"])
    assert not without.HasField("min_score")
    assert not without.HasField("token")
    assert not without.HasField("where")
    assert search_request("docs", texts=["a"], min_score=0.0).HasField("min_score")


def test_payload_updates_are_cut_as_upserts_are() -> None:
    """Large updates would be refused, or a payload be removed that should have been replaced."""
    ids = [f"d{row}" for row in range(1500)]
    payloads = [None if row == 7 else {"row": row} for row in range(1500)]
    requests = list(update_payloads_requests("docs", ids, payloads, None, "w", wait=True))
    assert [request.write_id for request in requests] == ["w/0", "w/1"]
    sent = [text for request in requests for text in request.payloads_json]
    assert sent == ["" if row == 7 else f'{{"row":{row}}}' for row in range(1500)]
    assert all(request.wait for request in requests)
