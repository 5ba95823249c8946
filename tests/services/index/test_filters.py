"""Filters on the wire against a plain evaluation of what filter.proto says."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from csr.v1 import filter_pb2
from services.index.core import columns
from services.index.core.fields import Declared
from services.index.core.where import check_filter, evaluate
from services.index.filters import where_from_proto
from services.runtime import limits
from services.runtime.errors import InvalidRequest, LimitExceeded

DECLARED: Declared = {"lang": "keyword", "year": "int", "price": "float", "sold": "bool", "tags": "keywords"}
Filter = filter_pb2.Filter

WORDS = st.sampled_from(["a", "b", "ä"])
INTS = st.integers(-3, 3) | st.sampled_from([-(1 << 63), (1 << 63) - 1])
FLOATS = st.sampled_from([-2.5, -0.0, 0.5, 1.0, 3.0])
BOUNDS = st.integers(-6, 6).map(lambda halves: halves / 2) | st.sampled_from([-1e300, 1e300, 2.0**63, -(2.0**63)])
RECORDS = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "lang": WORDS,
            "year": INTS,
            "price": FLOATS | st.integers(-2, 3),
            "sold": st.booleans(),
            "tags": st.lists(WORDS, max_size=3),
        },
    ),
    min_size=1,
    max_size=12,
)
VALUES = st.one_of(
    st.tuples(st.sampled_from(["lang", "tags"]), WORDS.map(lambda value: {"keyword": value})),
    st.tuples(st.sampled_from(["year", "price"]), st.integers(-3, 3).map(lambda value: {"int": value})),
    st.tuples(st.just("price"), FLOATS.map(lambda value: {"float": value})),
    st.tuples(st.just("sold"), st.booleans().map(lambda value: {"bool": value})),
)
LEAVES = st.one_of(
    VALUES.map(lambda pair: {"equals": {"field": pair[0], "value": pair[1]}}),
    st.lists(VALUES, min_size=1, max_size=3).map(
        lambda pairs: {"in": {"field": pairs[0][0], "values": [v for field, v in pairs if field == pairs[0][0]]}}
    ),
    st.tuples(
        st.sampled_from(["year", "price"]),
        st.dictionaries(st.sampled_from(["gte", "gt", "lte", "lt"]), BOUNDS, min_size=1),
    ).map(lambda pair: {"range": {"field": pair[0], **pair[1]}}),
)
FILTERS = st.recursive(
    LEAVES,
    lambda children: st.one_of(
        st.tuples(st.sampled_from(["and", "or"]), st.lists(children, min_size=1, max_size=3)).map(
            lambda pair: {pair[0]: {"filters": pair[1]}}
        ),
        children.map(lambda child: {"not": child}),
    ),
    max_leaves=6,
)


def matches(filter: dict[str, Any], record: dict[str, Any]) -> bool:
    """Evaluate a filter, as filter.proto describes it, on one document."""
    ((kind, body),) = filter.items()
    if kind == "not":
        return not matches(body, record)
    if kind in ("and", "or"):
        return (all if kind == "and" else any)([matches(child, record) for child in body["filters"]])
    stored = record.get(body["field"])
    if stored is None:
        return False
    if kind == "range":
        return all(
            {"gte": stored >= bound, "gt": stored > bound, "lte": stored <= bound, "lt": stored < bound}[name]
            for name, bound in body.items()
            if name != "field"
        )
    wanted = [value for message in body.get("values", [body.get("value")]) for value in message.values()]
    return any(value in stored if isinstance(stored, list) else value == stored for value in wanted)


@given(FILTERS, RECORDS)
def test_filters_mean_what_the_proto_says(filter: dict[str, Any], records: list[dict[str, Any]]) -> None:
    """Users would get documents that their filter excludes, or miss some."""
    where = where_from_proto(Filter(**filter), "where", DECLARED)
    assert where is not None
    check_filter(where, DECLARED)
    mask = evaluate(where, columns.build(DECLARED, records))
    np.testing.assert_array_equal(mask, [matches(filter, record) for record in records])


def equals(field: str, **value: Any) -> dict[str, Any]:
    """Return a filter for equality."""
    return {"equals": {"field": field, "value": value}}


def deep(levels: int) -> dict[str, Any]:
    """Return a filter nested this deep."""
    filter = equals("year", int=1)
    for _ in range(levels - 1):
        filter = {"not": filter}
    return filter


def many(values: int) -> dict[str, Any]:
    """Return a filter with this many values."""
    return {"or": {"filters": [equals("year", int=value) for value in range(values)]}}


@pytest.mark.parametrize(
    ("filter", "error", "text"),
    [
        (equals("colour", keyword="x"), InvalidRequest, "where.equals.field: 'colour' is not declared"),
        (equals("lang", int=1), InvalidRequest, "where.equals.value: int 1, field 'lang' is keyword"),
        (equals("year", float=1.0), InvalidRequest, "where.equals.value: float 1.0, field 'year' is int"),
        (equals("year", bool=True), InvalidRequest, "where.equals.value: bool True, field 'year' is int"),
        (equals("price", float=float("nan")), InvalidRequest, "where.equals.value: float nan"),
        (equals("sold", int=1), InvalidRequest, "where.equals.value: int 1, field 'sold' is bool"),
        (equals("lang"), InvalidRequest, "where.equals.value: keyword, int, float or bool is needed"),
        ({"in": {"field": "lang"}}, InvalidRequest, "where.in.values: empty"),
        ({"in": {"field": "tags", "values": [{"keyword": "a"}, {"int": 1}]}}, InvalidRequest, "where.in.values[1]"),
        ({"range": {"field": "year"}}, InvalidRequest, "where.range: gte, gt, lte or lt is needed"),
        ({"range": {"field": "lang", "gt": 1}}, InvalidRequest, "where.range.field: 'lang' is keyword"),
        ({"range": {"field": "year", "gt": float("nan")}}, InvalidRequest, "where.range.gt: nan, must be finite"),
        ({"and": {}}, InvalidRequest, "where.and.filters: empty"),
        ({"or": {"filters": [equals("year", int=1), {}]}}, InvalidRequest, "where.or[1]: equals, in"),
        (
            {"and": {"filters": [equals("year", int=1), {"not": equals("lang", bool=True)}]}},
            InvalidRequest,
            "where.and[1].not.equals.value: bool True",
        ),
        (deep(limits.FILTER_DEPTH_MAX + 1), LimitExceeded, "nested deeper than 32 levels"),
        (many(limits.FILTER_VALUES_MAX + 1), LimitExceeded, "where.or[1000].equals.value: at most 1000 values"),
    ],
)
def test_a_wrong_filter_is_explained(filter: dict[str, Any], error: type[Exception], text: str) -> None:
    """Users could not tell which part of a large filter is wrong, or get an answer to something else."""
    with pytest.raises(error) as raised:
        where_from_proto(Filter(**filter), "where", DECLARED)
    assert type(raised.value) is error
    assert text in str(raised.value)


def test_filters_may_fill_the_limits() -> None:
    """Filters within the documented limits would be refused."""
    for filter in (deep(limits.FILTER_DEPTH_MAX), many(limits.FILTER_VALUES_MAX)):
        where = where_from_proto(Filter(**filter), "where", DECLARED)
        assert where is not None
        check_filter(where, DECLARED)


def test_no_filter_is_none() -> None:
    """Requests without a filter would be refused."""
    assert where_from_proto(Filter(), "where", DECLARED) is None


def test_a_filter_of_a_later_release_is_refused() -> None:
    """A kind of filter that this release does not know would count as no filter: everything would match."""
    unknown = Filter.FromString(b"\xba\x06\x00")  # field 103
    with pytest.raises(InvalidRequest, match=r"^where: "):
        where_from_proto(unknown, "where", DECLARED)
