"""Every argument that the index refuses: the error names it, and nothing has changed."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from services.index.core import errors, limits
from services.index.core.index import SparseIndex
from services.index.core.where import And, Eq, In, Not, Or, Range, Where
from services.runtime import limits as public
from tests.services.index.core.data import single

CODE = single([1, 2], [1.0, 0.5])
FIELDS = {"language": "keyword", "year": "int", "price": "float", "public": "bool", "tags": "keywords"}


@pytest.fixture
def index() -> SparseIndex:
    """Return an index with one document."""
    index = SparseIndex(8, 4, FIELDS)
    index.upsert(["kept"], **CODE, fields=[{"year": 2000}], partitions=[3])
    return index


def assert_unchanged(index: SparseIndex) -> None:
    """Check that the one document is there as before."""
    assert index.ids() == ["kept"]
    assert index.search(**CODE, top_n=5, where=Eq("year", 2000), partitions=[3]) == [[("kept", 1.0)]]


def deep(levels: int) -> Where:
    """Return a filter nested `levels` deep."""
    where: Where = Eq("year", 1)
    for _ in range(levels - 1):
        where = Not(where)
    return where


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 4), r"hidden_dim must be 1\.\.65536, not 0"),
        ((65_537, 4), r"hidden_dim must be 1\.\.65536"),
        ((8.0, 4), r"hidden_dim must be 1\.\.65536"),
        ((8, 0), r"k_max must be 1\.\.256, not 0"),
        ((8, 257), r"k_max must be 1\.\.256"),
        ((8, 4, {"year": "date"}), "field 'year' must be one of keyword, int, float, bool, keywords, not 'date'"),
        ((8, 4, {"": "int"}), "field names must be non-empty text"),
    ],
)
def test_impossible_indexes(arguments: tuple[Any, ...], message: str) -> None:
    """A collection would be created that can hold nothing."""
    with pytest.raises(errors.InvalidIndex, match=message):
        SparseIndex(*arguments)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([""], r"ids\[0\] must have 1\.\.128 bytes of UTF-8, not 0"),
        (["é" * 65], r"ids\[0\] must have 1\.\.128 bytes of UTF-8, not 130"),
        ([7], r"ids\[0\] must be str, not int"),
        (["\ud800"], r"ids\[0\] is not valid Unicode text"),
        (["a", "a"], "'a' is given 2 times"),
        ("a", "ids must be a sequence of str"),
    ],
)
def test_impossible_ids(index: SparseIndex, ids: Any, message: str) -> None:
    """Documents would be stored under ids that no one can name."""
    count = 2 if len(ids) == 2 else 1
    with pytest.raises(errors.InvalidId, match=message):
        index.upsert(ids, np.tile([1], (count, 1)), np.ones((count, 1), np.float32))
    with pytest.raises(errors.InvalidId, match=message):
        index.delete(ids)
    assert_unchanged(index)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"ids": ["a", "b"]}, errors.InvalidRows, "ids must be one for each of 1 codes, not 2"),
        ({"fields": []}, errors.InvalidRows, "fields must have one record for each of 1 ids, not 0"),
        ({"partitions": [1, 2]}, errors.InvalidRows, r"partitions must be integers \[1\]"),
        ({"partitions": [0.5]}, errors.InvalidRows, r"partitions must be integers \[1\], not float64"),
        ({"partitions": [65_536]}, errors.InvalidRows, r"partitions must lie in 0\.\.65535"),
        ({"partitions": [-1]}, errors.InvalidRows, r"partitions must lie in 0\.\.65535"),
        ({"fields": [{"colour": 1}]}, errors.UnknownField, r"fields\[0\]: 'colour' is not declared"),
        ({"fields": [{"language": 1}]}, errors.InvalidField, r"fields\[0\]: 'language' must be keyword, not 1"),
        ({"fields": [{"language": "\ud800"}]}, errors.InvalidField, "'language' must be keyword"),
        ({"fields": [{"year": 1.0}]}, errors.InvalidField, "'year' must be int, not 1.0"),
        ({"fields": [{"year": True}]}, errors.InvalidField, "'year' must be int, not True"),
        ({"fields": [{"year": 1 << 63}]}, errors.InvalidField, "'year' must be int"),
        ({"fields": [{"price": float("nan")}]}, errors.InvalidField, "'price' must be float, not nan"),
        ({"fields": [{"public": 1}]}, errors.InvalidField, "'public' must be bool, not 1"),
        ({"fields": [{"tags": "x"}]}, errors.InvalidField, "'tags' must be keywords, not 'x'"),
        ({"fields": [{"tags": ["x", 1]}]}, errors.InvalidField, "'tags' must be keywords"),
        (single([1] * 5, [1.0] * 5), errors.InvalidCode, "latents of row 0 must be at most 4"),
        (single([8], [1.0]), errors.InvalidCode, r"latents of row 0 must lie in 0\.\.7"),
    ],
)
def test_impossible_upserts(
    index: SparseIndex, arguments: dict[str, Any], error: type[errors.CoreError], message: str
) -> None:
    """Part of a wrong batch would be stored, or a document replaced by nothing."""
    with pytest.raises(error, match=message):
        index.upsert(**{"ids": ["kept"], **CODE, **arguments})
    assert_unchanged(index)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"top_n": 0}, r"top_n must be 1\.\.1000, not 0"),
        ({"top_n": 1001}, r"top_n must be 1\.\.1000, not 1001"),
        ({"top_n": 1.5}, r"top_n must be 1\.\.1000"),
        ({"top_n": True}, r"top_n must be 1\.\.1000"),
        ({"k_query": 0}, r"k_query must be 1\.\.256, not 0"),
        ({"k_query": 257}, r"k_query must be 1\.\.256, not 257"),
        ({"k_docs": 3}, "k_docs must be a level, one of 1, 2, 4, not 3"),
        ({"k_docs": 8}, "k_docs must be a level, one of 1, 2, 4, not 8"),
        ({"k": 3}, "k_docs must be a level"),
        ({"k": 2, "k_docs": 4}, "k sets k_query and k_docs both"),
        ({"min_score": float("nan")}, "min_score must be a finite number, not nan"),
        ({"min_score": "1"}, "min_score must be a finite number"),
        ({"partitions": [65_536]}, r"partitions must be 0\.\.65535, not 65536"),
        ({"partitions": [1.5]}, r"partitions must be 0\.\.65535, not 1\.5"),
        ({"threads": 0}, r"threads must be 1\.\.1024, not 0"),
    ],
)
def test_impossible_searches(index: SparseIndex, arguments: dict[str, Any], message: str) -> None:
    """A search would answer something other than what was asked."""
    with pytest.raises(errors.InvalidSearch, match=message):
        index.search(**{**CODE, "top_n": 5, **arguments})


def test_queries_have_their_own_limit() -> None:
    """Fat queries over thin documents would be refused, or endless ones accepted."""
    index = SparseIndex(300, 2)
    index.upsert(["a"], **single([255], [1.0]))
    assert index.search(**single(list(range(256)), [1.0] * 256), top_n=1)[0][0][0] == "a"
    with pytest.raises(errors.InvalidCode, match="latents of row 0 must be at most 256"):
        index.search(**single(list(range(257)), [1.0] * 257), top_n=1)


@pytest.mark.parametrize(
    ("where", "error", "message"),
    [
        (Eq("colour", 1), errors.UnknownField, "where: 'colour' is not declared"),
        (Range("colour", gte=1), errors.UnknownField, "where: 'colour' is not declared"),
        (Eq("year", "2000"), errors.InvalidFilter, "where: 'year' is int, it cannot equal '2000'"),
        (Eq("year", True), errors.InvalidFilter, "where: 'year' is int, it cannot equal True"),
        (Eq("tags", ["x"]), errors.InvalidFilter, "where: 'tags' is keywords, it cannot equal"),
        (In("year", ()), errors.InvalidFilter, "where: In over 'year' needs a tuple of at least one value"),
        (In("language", "de"), errors.InvalidFilter, "where: In over 'language' needs a tuple"),
        (In("year", (1, 2.5)), errors.InvalidFilter, "where: 'year' is int, it cannot equal 2.5"),
        (Range("language", gte=1), errors.InvalidFilter, "where: 'language' is keyword; Range needs int or float"),
        (Range("year"), errors.InvalidFilter, "where: Range over 'year' needs gte, gt, lte or lt"),
        (Range("year", lt=2.5), errors.InvalidFilter, "where: 'year' is int, it has no bound 2.5"),
        (And(()), errors.InvalidFilter, "where: And needs a tuple of at least one filter"),
        (Or(()), errors.InvalidFilter, "where: Or needs a tuple of at least one filter"),
        (Not(Or((Eq("colour", 1),))), errors.UnknownField, "where: 'colour' is not declared"),
        ({"year": 1}, errors.InvalidFilter, "where must be Eq, In, Range, And, Or or Not, not dict"),
        (deep(33), errors.InvalidFilter, "where must nest at most 32 deep"),
    ],
)
def test_impossible_filters(index: SparseIndex, where: Any, error: type[errors.CoreError], message: str) -> None:
    """A misspelt filter would silently match nothing, or everything."""
    with pytest.raises(error, match=message):
        index.search(**CODE, top_n=5, where=where)


def test_filters_may_nest_to_the_limit(index: SparseIndex) -> None:
    """The limit would be one less than documented."""
    assert index.search(**CODE, top_n=5, where=deep(32)) == [[("kept", 1.0)]]


def test_limits_are_the_public_ones() -> None:
    """The router would accept what the index refuses, after the log has it."""
    pairs: list[tuple[int, int]] = [
        (limits.HIDDEN_DIM_MAX, public.HIDDEN_DIM_MAX),
        (limits.K_MAX, public.K_DOCS_MAX),
        (limits.K_MAX, public.K_QUERY_MAX),
        (limits.TOP_N_MAX, public.TOP_N_MAX),
        (limits.ID_BYTES_MAX, public.ID_BYTES_MAX),
    ]
    assert all(inner == outer for inner, outer in pairs)
    assert public.PARTITIONS_MAX <= limits.PARTITION_MAX + 1


@pytest.mark.parametrize("module", ["code", "errors", "limits"])
def test_light_modules_do_not_load_the_compiler(module: str) -> None:
    """Every router and store process would pay for numba that it never uses."""
    check = f"import sys, services.index.core.{module}; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


@pytest.mark.parametrize("failing", ["segment.build", "ids.find_rows"])
def test_a_failure_inside_a_write_changes_nothing(
    index: SparseIndex, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    """Running out of memory in a write would lose documents that were there before."""

    def fail(*_: Any) -> None:
        raise MemoryError

    index.upsert([f"{row}" for row in range(8_192)], np.tile([1], (8_192, 1)), np.ones((8_192, 1), np.float32))
    before = index.ids()
    with monkeypatch.context() as patched:
        patched.setattr(f"services.index.core.{failing}", fail)
        with pytest.raises(MemoryError):
            index.delete([str(row) for row in range(4_096)])
    assert index.ids() == before
    index.upsert(["kept"], **CODE)
    assert index.ids() == before
