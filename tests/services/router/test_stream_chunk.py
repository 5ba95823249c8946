from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from csr.v1 import search_pb2, vector_pb2
from services.index.store.catalog import CollectionRecord, GenerationRecord
from services.router.stream_chunk import check_chunk, rows_of
from services.runtime.codec import RaggedCodes, codes_to_proto, embeddings_to_proto
from services.runtime.errors import CsrError, FingerprintMismatch, InvalidRequest, WrongKind
from tests.services.router.corpus import FINGERPRINT

Chunk = search_pb2.UpsertChunk

CODES_RECORD = CollectionRecord(
    "docs", "ab" * 8, "codes", "assigned", 0, 8, 4, (GenerationRecord(1, "active", "m", 1, FINGERPRINT, 64),)
)


def codes(*rows: list[int], weights: list[list[float]] | None = None) -> vector_pb2.CodeBatch:
    """Return codes with these latents, all of weight 1 unless said."""
    flat = [weight for row in weights for weight in row] if weights else [1.0 for row in rows for _ in row]
    lengths = np.array([len(row) for row in rows], np.uint16)
    latents = np.array([latent for row in rows for latent in row], np.uint16)
    return codes_to_proto(RaggedCodes(lengths, latents, np.array(flat, np.float32)), FINGERPRINT)


def dense(**changes: Any) -> Chunk:
    """Return a chunk of three embeddings of four numbers."""
    embeddings = embeddings_to_proto(np.eye(3, 4, dtype=np.float32))
    return Chunk(**{"sequence": 1, "ids": ["a", "b", "c"], "embeddings": embeddings, **changes})


def test_a_good_chunk_is_stored_whole(new_record: Callable[..., CollectionRecord]) -> None:
    """Documents of a good chunk would be refused, or come in another order."""
    checked = check_chunk(dense(), new_record())
    assert list(checked.rows) == [0, 1, 2]
    assert checked.upsert is not None
    assert list(checked.upsert.ids) == ["a", "b", "c"]
    assert checked.refused == {}


BAD_ROW = np.array([[1, 0, 0, 0], [np.nan, 0, 0, 0], [0, 0, 1, 0]], np.float32)


@pytest.mark.parametrize(
    ("changes", "row", "text"),
    [
        ({"ids": ["a", "", "c"]}, 1, "ids[1]: empty"),
        ({"ids": ["a", "b", "x" * 129]}, 2, "ids[2]: 129 bytes"),
        ({"ids": ["a", "b", "a"]}, 2, "ids[2]: 'a' was listed before"),
        ({"payloads_json": ["{}", "{}", "nonsense"]}, 2, "payloads_json[2]: not JSON"),
        ({"embeddings": embeddings_to_proto(BAD_ROW)}, 1, "embeddings[1][0]: nan"),
    ],
)
def test_what_is_wrong_with_one_document_concerns_that_one(
    new_record: Callable[..., CollectionRecord], changes: dict[str, Any], row: int, text: str
) -> None:
    """One bad document among millions would end a bulk load, or be reported as another one."""
    checked = check_chunk(dense(**changes), new_record())
    assert checked.refused.keys() == {row}
    assert checked.refused[row].startswith(text)
    assert list(checked.rows) == [other for other in range(3) if other != row]
    assert checked.upsert is not None
    np.testing.assert_array_equal(checked.upsert.vectors, np.eye(3, 4, dtype=np.float16)[list(checked.rows)])


def test_versions_are_judged_one_by_one(new_record: Callable[..., CollectionRecord]) -> None:
    """A version that is out of range would refuse its neighbours."""
    checked = check_chunk(dense(versions=[5, 0, 7]), new_record(versioning="client"))
    assert list(checked.refused) == [1]
    assert checked.upsert is not None
    assert list(checked.upsert.versions) == [5, 7]


def test_nothing_may_be_good(new_record: Callable[..., CollectionRecord]) -> None:
    """A chunk without a single good document would break the stream."""
    checked = check_chunk(dense(payloads_json=["1", "2", "3"]), new_record())
    assert (list(checked.rows), checked.upsert) == ([], None)
    assert sorted(checked.refused) == [0, 1, 2]


@pytest.mark.parametrize(
    ("chunk", "error"),
    [
        (Chunk(sequence=1, ids=["a"]), InvalidRequest),
        (dense(ids=["a"]), InvalidRequest),
        (dense(ids=[]), InvalidRequest),
        (dense(payloads_json=["{}"]), InvalidRequest),
        (dense(versions=[1, 2, 3]), None),
        (dense(embeddings=vector_pb2.EmbeddingBatch(count=3, dim=4, values=b"x" * 47)), InvalidRequest),
        (dense(codes=codes([1], [2], [3])), WrongKind),
    ],
)
def test_a_chunk_that_cannot_be_told_apart_ends_the_stream(
    new_record: Callable[..., CollectionRecord], chunk: Chunk, error: type[CsrError] | None
) -> None:
    """Documents would be paired with the vectors of others."""
    if error is None:  # versions where the store assigns them: wrong for each document
        assert sorted(check_chunk(chunk, new_record()).refused) == [0, 1, 2]
        return
    with pytest.raises(error):
        check_chunk(chunk, new_record())


def test_codes_of_another_model_end_the_stream() -> None:
    """A whole data set of another model would be refused document by document, for hours."""
    batch = codes([1], [2])
    batch.fingerprint = "cd" * 16
    with pytest.raises(FingerprintMismatch):
        check_chunk(Chunk(sequence=1, ids=["a", "b"], codes=batch), CODES_RECORD)


@settings(max_examples=50)
@given(st.lists(st.lists(st.integers(0, 70), max_size=10), min_size=1, max_size=8))
def test_codes_are_cut_where_they_end(rows: list[list[int]]) -> None:
    """A bad code would shift the latents of the documents behind it."""
    ids = [f"d{number}" for number in range(len(rows))]
    checked = check_chunk(Chunk(sequence=1, ids=ids, codes=codes(*rows)), CODES_RECORD)
    good = [
        row
        for row, latents in enumerate(rows)
        if len(set(latents)) == len(latents) <= 8 and all(x < 64 for x in latents)
    ]
    assert list(checked.rows) == good
    assert sorted(checked.refused) == [row for row in range(len(rows)) if row not in good]
    if checked.upsert is not None:
        assert isinstance(checked.upsert.vectors, list)
        assert [sorted(code.latents.tolist()) for code in checked.upsert.vectors] == [sorted(rows[row]) for row in good]


def test_a_part_of_a_chunk_keeps_everything_of_its_documents() -> None:
    """Payloads, versions or texts of one document would be stored with another."""
    texts = vector_pb2.TextBatch(texts=["x", "y", "z"])
    chunk = Chunk(sequence=4, ids=["a", "b", "c"], texts=texts, payloads_json=["1", "2", "3"], versions=[7, 8, 9])
    part = rows_of(chunk, [0, 2])
    expected = Chunk(
        sequence=4,
        ids=["a", "c"],
        texts=vector_pb2.TextBatch(texts=["x", "z"]),
        payloads_json=["1", "3"],
        versions=[7, 9],
    )
    assert part == expected
