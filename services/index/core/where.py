"""Filters: a small typed tree over declared fields, evaluated to a row mask before anything is scored.

A missing field matches nothing. Not is the plain complement, so Not(Eq("lang", "de")) also matches documents
without `lang`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from operator import iand, ior
from typing import Any, TypeAlias

from services.index.core.columns import Column, KeywordColumn, Mask
from services.index.core.errors import InvalidFilter, UnknownField
from services.index.core.fields import Declared, FieldType, is_keyword, is_value_of
from services.index.core.limits import FILTER_DEPTH_MAX


@dataclass(frozen=True, slots=True)
class Eq:
    """The field equals the value; a keyword list contains it."""

    field: str
    value: Any


@dataclass(frozen=True, slots=True)
class In:
    """The field equals one of the values (at least one); a keyword list contains one of them."""

    field: str
    values: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Range:
    """An int or float field lies within the bounds; None is no bound, but one must be given."""

    field: str
    gte: float | None = None
    gt: float | None = None
    lte: float | None = None
    lt: float | None = None


@dataclass(frozen=True, slots=True)
class And:
    """Every one of the filters matches (at least one)."""

    filters: "tuple[Where, ...]"


@dataclass(frozen=True, slots=True)
class Or:
    """At least one of the filters matches (at least one)."""

    filters: "tuple[Where, ...]"


@dataclass(frozen=True, slots=True)
class Not:
    """The filter does not match."""

    filter: "Where"


Where: TypeAlias = Eq | In | Range | And | Or | Not


def check_filter(where: Where, declared: Declared, depth: int = 1) -> None:
    """Check a filter against the declared fields.

    Raises:
        UnknownField: a field that was not declared.
        InvalidFilter: a value of another type, a Range over text or bool or without a bound, an empty In, And or Or,
            nesting deeper than FILTER_DEPTH_MAX, or something that is no filter.
    """
    if depth > FILTER_DEPTH_MAX:
        raise InvalidFilter(f"where must nest at most {FILTER_DEPTH_MAX} deep")
    match where:
        case Eq(field, value):
            _check_values(field, (value,), declared)
        case In(field, values):
            _check_values(field, values, declared)
        case Range():
            _check_range(where, declared)
        case And(filters) | Or(filters):
            if not isinstance(filters, list | tuple) or not filters:
                raise InvalidFilter(f"where: {type(where).__name__} needs a tuple of at least one filter")
            for child in filters:
                check_filter(child, declared, depth + 1)
        case Not(child):
            check_filter(child, declared, depth + 1)
        case _:
            raise InvalidFilter(f"where must be Eq, In, Range, And, Or or Not, not {type(where).__name__}")


def _check_values(field: str, values: Any, declared: Declared) -> None:
    kind = _kind(field, declared)
    if not isinstance(values, list | tuple | set | frozenset) or not values:
        raise InvalidFilter(f"where: In over {field!r} needs a tuple of at least one value")
    for value in values:
        if not (is_keyword(value) if kind == "keywords" else is_value_of(kind, value)):
            raise InvalidFilter(f"where: {field!r} is {kind}, it cannot equal {value!r:.80}")


def _check_range(where: Range, declared: Declared) -> None:
    kind = _kind(where.field, declared)
    if kind not in ("int", "float"):
        raise InvalidFilter(f"where: {where.field!r} is {kind}; Range needs int or float")
    bounds = [bound for bound in (where.gte, where.gt, where.lte, where.lt) if bound is not None]
    if not bounds:
        raise InvalidFilter(f"where: Range over {where.field!r} needs gte, gt, lte or lt")
    for bound in bounds:
        if not is_value_of(kind, bound):
            raise InvalidFilter(f"where: {where.field!r} is {kind}, it has no bound {bound!r:.80}")


def _kind(field: str, declared: Declared) -> FieldType:
    if not isinstance(field, str) or field not in declared:
        raise UnknownField(f"where: {field!r} is not declared")
    return declared[field]


def evaluate(where: Where, columns: Mapping[str, Column]) -> Mask:
    """Return the rows that a checked filter matches, in a mask of the caller's own."""
    match where:
        case Eq(field, value):
            return columns[field].any_of((value,))
        case In(field, values):
            return columns[field].any_of(tuple(values))
        case Range(field, gte, gt, lte, lt):
            column = columns[field]
            assert not isinstance(column, KeywordColumn), "check_filter() lets Range reach numbers only"
            return column.between(gte, gt, lte, lt)
        case And(filters):
            return reduce(iand, (evaluate(child, columns) for child in filters))
        case Or(filters):
            return reduce(ior, (evaluate(child, columns) for child in filters))
        case Not(child):
            return ~evaluate(child, columns)
