from collections.abc import Mapping

import numpy as np
import pytest

from services.index.changes import Changes
from services.index.generation import GenerationIndex, Published, SearchOptions
from services.index.store.catalog import GenerationRecord
from services.index.store.entry import DocumentBody, QuantisedCode, encode_body
from services.runtime.errors import CorruptRecord, InvalidRequest
from tests.services.index.world import FINGERPRINT, HIDDEN_DIM, K_MAX, as_ragged, random_code

ALL = SearchOptions(top_n=100, k_query=K_MAX, k_docs=K_MAX, min_score=None)


def new_index(number: int = 1) -> GenerationIndex:
    """Return an empty generation."""
    return GenerationIndex(GenerationRecord(number, "active", "model", 1, FINGERPRINT, HIDDEN_DIM), K_MAX, {})


def stored(*generations: int, code: QuantisedCode) -> DocumentBody:
    """Return a document with the same code in these generations."""
    return DocumentBody(codes=dict.fromkeys(generations, code))


def changes(documents: Mapping[int, Mapping[str, DocumentBody | None]], version: int = 1) -> Changes:
    """Return what becomes of documents, by partition and id; None for those that are deleted."""
    kept = [
        (partition, id, encode_body(body))
        for partition, bodies in documents.items()
        for id, body in bodies.items()
        if body is not None
    ]
    return Changes(
        ids=[id for _, id, _ in kept],
        versions=np.full(len(kept), version, np.int64),
        partitions=np.array([partition for partition, _, _ in kept], np.int64),
        bodies=[body for _, _, body in kept],
        gone=[id for bodies in documents.values() for id, body in bodies.items() if body is None],
    )


def found(index: GenerationIndex, published: Published, code: QuantisedCode, *partitions: int) -> set[str]:
    """Return the ids that a code like the documents' finds."""
    [hits] = index.search(published, *as_ragged([code]).padded(), ALL, frozenset(partitions))
    return {id for id, _ in hits}


def test_a_published_state_outlives_later_writes(rng: np.random.Generator) -> None:
    """A search that began before a write would answer with documents that its positions do not cover."""
    index, code = new_index(), random_code(rng)
    index.write(changes({0: {"a": DocumentBody(codes={1: code})}}))
    assert found(index, index.published, code, 0) == set(), "written, but not published"
    index.publish({0: 1}, frozenset({0}))
    before = index.published
    index.write(changes({0: {"a": None, "b": DocumentBody(codes={1: code})}}))
    index.publish({0: 3}, frozenset({0}))
    assert found(index, before, code, 0) == {"a"}
    assert found(index, index.published, code, 0) == {"b"}


def test_documents_of_partitions_that_were_not_asked_for_stay_out(rng: np.random.Generator) -> None:
    """Two servers that both hold a partition while it moves would find its documents twice."""
    index, code = new_index(), random_code(rng)
    index.write(changes({number: {f"doc-{number}": DocumentBody(codes={1: code})} for number in range(3)}))
    index.publish({0: 1, 2: 1}, frozenset({0, 1, 2}))
    assert found(index, index.published, code, 0, 2) == {"doc-0", "doc-2"}
    assert found(index, index.published, code, 0, 1, 2) == {"doc-0", "doc-1", "doc-2"}


def test_a_version_without_a_code_of_the_generation_removes_the_older_one(rng: np.random.Generator) -> None:
    """A document whose encoding failed would be found by what it said before."""
    index, code = new_index(2), random_code(rng)
    index.write(changes({0: {"a": DocumentBody(codes={1: code, 2: code}), "b": DocumentBody(codes={1: code})}}))
    index.publish({0: 2}, frozenset({0}))
    assert found(index, index.published, code, 0) == {"a"}
    index.write(changes({0: {"a": DocumentBody(codes={1: code})}}))
    index.publish({0: 3}, frozenset({0}))
    assert found(index, index.published, code, 0) == set()


def test_a_code_that_no_writer_could_have_stored_is_corrupt(rng: np.random.Generator) -> None:
    """An engine would read beyond its arrays, or the process would end over one document."""
    bad = QuantisedCode(np.array([HIDDEN_DIM], np.uint16), np.array([65_535], np.uint16))
    with pytest.raises(CorruptRecord, match="latents"):
        new_index().write(changes({0: {"a": DocumentBody(codes={1: bad})}}))


def test_a_level_that_does_not_exist_is_named(rng: np.random.Generator) -> None:
    """A caller who asks for k = 3 would get an internal error instead of the levels that there are."""
    options = SearchOptions(top_n=1, k_query=3, k_docs=3, min_score=None)
    index = new_index()
    with pytest.raises(InvalidRequest, match="k_docs"):
        index.search(index.published, *as_ragged([random_code(rng)]).padded(), options, frozenset({0}))
