"""Listing and counting documents, against sorting all of them."""

from collections.abc import Sequence
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.index.core import writer
from services.index.core.index import SparseIndex
from services.index.core.where import Eq
from tests.services.index.core.filters import FIELDS, FILTERS, RECORDS, matches

PREFIXES = ["", "a", "collection/articles/2024/", "ü" * 60, "日本", "\x00", "\U0010ffff"]
ENDINGS = st.text("ab\x00ä\uffff\U00010000", max_size=3) | st.integers(0, 300).map(str)
NAMES = st.builds(str.__add__, st.sampled_from(PREFIXES), ENDINGS).filter(lambda name: 0 < len(name.encode()) <= 128)
NAMES |= st.sampled_from(["x" * 127, "x" * 128, "x" * 127 + "y", "é" * 64])


def put(index: SparseIndex, names: Sequence[str], **arguments: Any) -> None:
    """Write documents that all have the same code, so that segments keep them in this order."""
    index.upsert(names, np.zeros((len(names), 1), np.int64), np.ones((len(names), 1), np.float32), **arguments)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), seal_rows=st.sampled_from([4, 16, 1_000]), limit=st.integers(1, 12) | st.just(1_000_000))
def test_listings_are_the_sorted_documents(data: st.DataObject, seal_rows: int, limit: int) -> None:
    """Scrolling would leave documents out, show some twice or in another order, or show deleted ones."""
    index, expected = SparseIndex(1, 1, FIELDS), {}
    with mock.patch.object(writer, "SEAL_ROWS", seal_rows):
        for names in data.draw(st.lists(st.lists(NAMES, unique=True, max_size=24), max_size=6)):
            count = len(names)
            records = data.draw(st.lists(RECORDS, min_size=count, max_size=count))
            partitions = data.draw(st.lists(st.integers(0, 2), min_size=count, max_size=count))
            versions = data.draw(st.lists(st.integers(0, (1 << 63) - 1), min_size=count, max_size=count))
            put(index, names, fields=records, partitions=partitions, versions=versions)
            expected |= {name: row for name, *row in zip(names, versions, partitions, records, strict=True)}
            gone = data.draw(st.lists(st.sampled_from(names), unique=True, max_size=5)) if names else []
            assert index.delete(gone) == len(gone)
            expected = {name: row for name, row in expected.items() if name not in gone}
    where = data.draw(st.none() | FILTERS)
    chosen = data.draw(st.none() | st.sets(st.integers(0, 3), max_size=2))
    after = data.draw(st.none() | NAMES | st.just("") | st.sampled_from(sorted(expected) or [""]))
    allowed = [
        (name, version, partition)
        for name, (version, partition, record) in sorted(expected.items(), key=lambda item: item[0].encode())
        if (where is None or matches(where, record)) and (chosen is None or partition in chosen)
    ]
    assert index.count(where, chosen) == len(allowed)
    rest = [row for row in allowed if after is None or row[0].encode() > after.encode()]
    assert index.scan(limit, after, where, chosen) == rest[:limit]


@pytest.mark.parametrize("order", ["ascending", "descending", "interleaved", "drawn"])
def test_pages_of_one_moment_are_the_whole(order: str) -> None:
    """Whoever scrolls through a collection would miss documents because others are written meanwhile."""
    names = [f"collection/articles/{row:06d}" for row in range(20_000)]
    match order:
        case "descending":
            written = names[::-1]
        case "interleaved":
            written = [*names[::2], *names[1::2][::-1]]
        case _:
            written = names if order == "ascending" else np.random.default_rng(0).permutation(names).tolist()
    index = SparseIndex(1, 1)
    for begin in range(0, 20_000, 6_000):
        put(index, written[begin : begin + 6_000])
    moment, pages = index.state, []
    assert (len(moment.parts), len(moment.recent)) == (3, 2_000)
    after = None
    while page := index.scan(777, after, at=moment):
        pages.extend(page)
        after = page[-1].id
        index.delete([after])
        put(index, [f"{after}-new"])
    assert [document.id for document in pages] == names
    assert (index.count(at=moment), index.count(), len(index)) == (20_000, 20_000, 20_000)
    assert index.scan(1, names[-2])[0].id == f"{names[-1]}-new"


def test_fields_are_named_once(index: SparseIndex) -> None:
    """Callers that read a document's version by name would read its partition."""
    put(index, ["~"], versions=[17], partitions=[3], fields=[{"year": 7}])
    (document,) = index.scan(5, where=Eq("year", 7))
    assert (document.id, document.version, document.partition) == ("~", 17, 3)
