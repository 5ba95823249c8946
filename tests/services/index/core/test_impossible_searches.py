"""Every index, search and filter that is refused: the error names what is wrong, and nothing has changed."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.index.core import errors, limits
from services.index.core.index import SparseIndex
from services.index.core.where import And, Eq, In, Not, Or, Range, Where
from services.runtime import limits as public
from tests.services.index.core.data import single
from tests.services.index.core.filters import FIELDS

CODE = single([1, 2], [1.0, 0.5])


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
        ((8, 4, ["year"]), "fields must be a mapping from name to type, not list"),
        ((8, 4, []), "fields must be a mapping from name to type, not list"),
        ((8, 4, {"": "int"}), "field names must be non-empty text"),
    ],
)
def test_impossible_indexes(arguments: tuple[Any, ...], message: str) -> None:
    """A collection would be created that can hold nothing."""
    with pytest.raises(errors.InvalidIndex, match=message):
        SparseIndex(*arguments)


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
        ({"k_docs": 0}, "k_docs must be a level, one of 1, 2, 4, not 0"),
        ({"k_docs": 2.0}, r"k_docs must be a level, one of 1, 2, 4, not 2\.0"),
        ({"k_docs": 8}, "k_docs must be a level, one of 1, 2, 4, not 8"),
        ({"k": 3}, "k_docs must be a level"),
        ({"k": 257}, r"k_query must be 1\.\.256, not 257"),
        ({"k": 2, "k_docs": 4}, "k sets k_query and k_docs both"),
        ({"min_score": float("nan")}, "min_score must be a finite number, not nan"),
        ({"min_score": float("-inf")}, "min_score must be a finite number, not -inf"),
        ({"min_score": "1"}, "min_score must be a finite number"),
        ({"min_score": True}, "min_score must be a finite number, not True"),
        ({"min_score": 10**400}, "min_score must be a finite number, not 1000"),
        ({"min_score": np.float32("inf")}, "min_score must be a finite number"),
        ({"partitions": 5}, r"partitions must be a collection of 0\.\.65535, not 5"),
        ({"partitions": [65_536]}, r"partitions must be 0\.\.65535, not 65536"),
        ({"partitions": [1.5]}, r"partitions must be 0\.\.65535, not 1\.5"),
        ({"kernel": "fast"}, "kernel must be .*, not 'fast'"),
        ({"threads": 0}, r"threads must be 1\.\.1024, not 0"),
    ],
)
def test_impossible_searches(untouched: SparseIndex, arguments: dict[str, Any], message: str) -> None:
    """A search would answer something other than what was asked."""
    with pytest.raises(errors.InvalidSearch, match=message):
        untouched.search(**{**CODE, "top_n": 5, **arguments})
    if arguments.keys() <= {"k", "k_query", "k_docs"}:
        with pytest.raises(errors.InvalidSearch, match=message):
            untouched.cost(**CODE, **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"limit": 0}, r"limit must be 1\.\.1000000, not 0"),
        ({"limit": 1_000_001}, r"limit must be 1\.\.1000000, not 1000001"),
        ({"limit": 2.0}, r"limit must be 1\.\.1000000, not 2\.0"),
        ({"after": 7}, "after must be valid Unicode text, not 7"),
        ({"after": b"a"}, "after must be valid Unicode text, not b'a'"),
        ({"after": "\ud800"}, "after must be valid Unicode text"),
        ({"partitions": [-1]}, r"partitions must be 0\.\.65535, not -1"),
    ],
)
def test_impossible_scans(untouched: SparseIndex, arguments: dict[str, Any], message: str) -> None:
    """A page would be empty, and whoever scrolls would take it for the last one."""
    with pytest.raises(errors.InvalidSearch, match=message):
        untouched.scan(**{"limit": 5, **arguments})


@pytest.mark.parametrize("rows", [1, 5_000])
@pytest.mark.parametrize("other", [(16, 4, FIELDS), (8, 2, FIELDS), (8, 4, {}), (8, 4, {**FIELDS, "year": "float"})])
def test_states_of_other_indexes(untouched: SparseIndex, tmp_path: Path, other: Any, rows: int) -> None:
    """Kernels would read past the end of arrays, and a snapshot would hold documents of another collection."""
    there = SparseIndex(*other)
    names = [f"{row}" for row in range(rows)]
    there.upsert(names, np.full((rows, 1), there.hidden_dim - 1), np.ones((rows, 1), np.float32))
    message = "at must be a state of this index, not of one with another hidden_dim, k_max or fields"
    with pytest.raises(errors.InvalidState, match=message):
        untouched.search(**CODE, top_n=5, at=there.state)
    with pytest.raises(errors.InvalidState, match=message):
        untouched.explain(**CODE, ids=["1"], at=there.state)
    with pytest.raises(errors.InvalidState, match=message):
        untouched.scan(5, at=there.state)
    with pytest.raises(errors.InvalidState, match=message):
        untouched.count(at=there.state)
    with pytest.raises(errors.InvalidState, match=message):
        untouched.cost(**CODE, at=there.state)
    with pytest.raises(errors.InvalidState, match=message):
        untouched.save(tmp_path / "snapshot", at=there.state)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_state(untouched: SparseIndex) -> None:
    """Whoever passes a position for a state would see the inside of the index fail."""
    with pytest.raises(errors.InvalidState, match="at must be a state of this index, not 17"):
        untouched.search(**CODE, top_n=5, at=17)  # type: ignore[arg-type]


def test_min_score_of_any_real_type(index: SparseIndex) -> None:
    """A threshold computed with numpy would be refused."""
    scores = [score for _, score in index.search(**CODE, top_n=5, min_score=0.5)[0]]
    assert scores
    for given in (np.float32(0.5), np.float64(0.5), np.float16(0.5)):
        assert [score for _, score in index.search(**CODE, top_n=5, min_score=given)[0]] == scores
    assert index.search(**CODE, top_n=5, min_score=np.int64(2)) == [[]]


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
        (Eq(["year"], 1), errors.UnknownField, r"where: \['year'\] is not declared"),
        (Range(["year"], gte=1), errors.UnknownField, r"where: \['year'\] is not declared"),
        (Eq("year", "2000"), errors.InvalidFilter, "where: 'year' is int, it cannot equal '2000'"),
        (Eq("year", True), errors.InvalidFilter, "where: 'year' is int, it cannot equal True"),
        (Eq("tags", ["x"]), errors.InvalidFilter, "where: 'tags' is keywords, it cannot equal"),
        (Eq("language", ["de"]), errors.InvalidFilter, "where: 'language' is keyword, it cannot equal"),
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
def test_impossible_filters(untouched: SparseIndex, where: Any, error: type[errors.CoreError], message: str) -> None:
    """A misspelt filter would silently match nothing, or everything."""
    with pytest.raises(error, match=message):
        untouched.search(**CODE, top_n=5, where=where)
    with pytest.raises(error, match=message):
        untouched.scan(5, where=where)
    with pytest.raises(error, match=message):
        untouched.count(where)


def test_filters_may_nest_to_the_limit(index: SparseIndex) -> None:
    """The limit would be one less than documented."""
    found = index.search(**CODE, top_n=5, where=deep(32))
    assert found == index.search(**CODE, top_n=5, where=Not(Eq("year", 1)))
    assert found != [[]]


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


@pytest.mark.parametrize("module", ["errors", "limits"])
def test_light_modules_do_not_load_the_compiler(module: str) -> None:
    """Whoever needs a limit or an error only would pay for the compiler."""
    check = f"import sys, services.index.core.{module}; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
