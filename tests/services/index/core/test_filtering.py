"""Filters against their meaning, evaluated one document at a time in plain Python."""

import tracemalloc
from typing import Any
from unittest import mock

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.index.core import writer
from services.index.core.columns import ScalarColumn
from services.index.core.index import SparseIndex
from services.index.core.where import And, Eq, In, Not, Or, Range, evaluate
from tests.services.index.core.data import single
from tests.services.index.core.filters import FIELDS, FILTERS, RECORDS, matches

ONE = single([0], [1.0])


def holding(records: list[Any], seal_rows: int) -> SparseIndex:
    """Return an index of documents that all match, named by their number."""
    with mock.patch.object(writer, "SEAL_ROWS", seal_rows):
        index = SparseIndex(1, 1, FIELDS)
        for begin in range(0, len(records), 8):
            part = records[begin : begin + 8]
            latents, weights = np.zeros((len(part), 1), np.int64), np.ones((len(part), 1), np.float32)
            index.upsert([f"{begin + row:02d}" for row in range(len(part))], latents, weights, part)
    return index


def found(index: SparseIndex, where: Any) -> list[int]:
    """Return the numbers of the documents that a filter lets through."""
    return [int(name) for name, _ in index.search(**ONE, top_n=1000, where=where)[0]]


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    records=st.lists(RECORDS, min_size=1, max_size=24),
    wheres=st.lists(FILTERS, min_size=1, max_size=4),
    seal_rows=st.sampled_from([6, 1000]),
)
def test_filters_mean_what_they_say(records: list[Any], wheres: list[Any], seal_rows: int) -> None:
    """Somebody would see documents that a filter was to hide, or miss some that it was to show."""
    index = holding(records, seal_rows)
    for where in wheres:
        assert found(index, where) == [row for row, record in enumerate(records) if matches(where, record)]


def test_missing_fields_match_nothing_except_under_not() -> None:
    """Documents without a field would be taken for documents whose field is 0, false or empty."""
    index = holding([{}, {"year": 0, "price": 0.0, "public": False, "tags": [], "language": ""}], 1)
    zeros = [Eq("year", 0), Eq("price", 0.0), Eq("public", False), Eq("language", ""), Range("year", lte=0)]
    for where in (*zeros, Range("price", gte=-1.0), In("year", (0, 1))):
        assert found(index, where) == [1]
        assert found(index, Not(where)) == [0]
        assert found(index, Not(Not(where))) == [1]
    for value in ("", "x"):  # an empty list holds nothing, as a missing one
        assert found(index, Eq("tags", value)) == []
        assert found(index, Not(Eq("tags", value))) == [0, 1]
    assert found(index, Or((Not(Eq("year", 0)), Eq("year", 0)))) == [0, 1]
    assert found(index, And((Not(Eq("year", 0)), Eq("year", 0)))) == []


def test_ends_of_64_bits_are_numbers_like_others() -> None:
    """Ids and timestamps kept as int would be rounded to float64, or overflow, when they are compared."""
    least, most, odd = -(1 << 63), (1 << 63) - 1, (1 << 53) + 1
    index = holding([{"year": year} for year in (least, least + 1, odd - 1, odd, most - 1, most)], 1)
    assert found(index, Eq("year", odd)) == [3]
    assert found(index, Range("year", gt=odd - 1, lt=most)) == [3, 4]
    assert found(index, Range("year", gt=least, lte=most - 1)) == [1, 2, 3, 4]
    assert found(index, Range("year", gt=most)) == found(index, Range("year", lt=least)) == []
    assert found(index, In("year", (least, most))) == [0, 5]


def test_wide_filters_hold_few_masks() -> None:
    """A hundred alternatives over a large segment would take a hundred bytes of memory for each of its rows."""
    count = 100_000
    columns = {"year": ScalarColumn(np.arange(count), np.ones(count, np.bool_))}
    ranges = tuple(Range("year", gte=1_000 * i, lt=1_000 * i + 500) for i in range(100))
    for where, expected in ((Or(ranges), count // 2), (And(tuple(map(Not, ranges))), count // 2)):
        tracemalloc.start()
        mask = evaluate(where, columns)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert np.count_nonzero(mask) == expected
        assert peak < 5 * count
    assert columns["year"].present.all()


def test_numbers_of_numpy_are_numbers() -> None:
    """Fields that come out of arrays would have to be converted one by one."""
    given = {"year": np.int16(-3), "price": np.float32(0.5), "public": np.True_}
    plain = {"year": -3, "price": 0.5, "public": True}
    index = holding([given, plain, {"year": np.uint64(7), "price": np.int8(2), "public": np.False_}], 8)
    for records in (given, plain):
        for name, value in records.items():
            assert found(index, Eq(name, value)) == [0, 1]
    assert found(index, Eq("public", np.False_)) == [2]
    assert found(index, Range("price", gt=np.float32(0.5), lte=np.int64(2))) == [2]
    assert found(index, In("year", (np.int8(7), 8))) == [2]
