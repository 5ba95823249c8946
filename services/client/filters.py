"""Filters over the declared fields of a collection.

    And([Eq("lang", "de"), Range("year", gte=2020), Not(In("tag", ["spam", "ads"]))])

A document without the field matches nothing, except under Not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import numpy as np
from google.protobuf.message import Message

from csr.v1 import filter_pb2
from services.runtime.errors import InvalidRequest

Value: TypeAlias = str | int | float | bool
"""Of a field; its type must be that of the field."""

_INT_MIN: Final = -(1 << 63)
_INT_MAX: Final = (1 << 63) - 1


@dataclass(frozen=True)
class Eq:
    """The field equals the value; a keyword list contains it."""

    field: str
    value: Value


@dataclass(frozen=True)
class In:
    """The field equals one of the values; a keyword list contains one of them."""

    field: str
    values: Sequence[Value]


@dataclass(frozen=True)
class Range:
    """A field of type int or float lies within the bounds, at least one."""

    field: str
    gte: float | None = None
    gt: float | None = None
    lte: float | None = None
    lt: float | None = None


@dataclass(frozen=True)
class And:
    """Every filter matches."""

    filters: "Sequence[Where]"


@dataclass(frozen=True)
class Or:
    """At least one filter matches."""

    filters: "Sequence[Where]"


@dataclass(frozen=True)
class Not:
    """The filter does not match."""

    filter: "Where"


Where: TypeAlias = Eq | In | Range | And | Or | Not


def filter_message(where: Where) -> filter_pb2.Filter:
    """Return the message of a filter; whether it fits the collection is for the server to judge.

    Raises:
        InvalidRequest: something that is no filter, or a value or bound that cannot be sent as it is.
    """
    match where:
        case Eq(field, value):
            return filter_pb2.Filter(equals=filter_pb2.Equals(field=field, value=_value(field, value)))
        case In(field, values):
            if isinstance(values, str):
                raise InvalidRequest(f"where: values of {field!r} are one str, a list of them is needed")
            sent = [_value(field, value) for value in values]
            return _wrapped("in", filter_pb2.In(field=field, values=sent))
        case Range(field):
            bounds = {name: _bound(field, getattr(where, name)) for name in ("gte", "gt", "lte", "lt")}
            return filter_pb2.Filter(range=filter_pb2.Range(field=field, **bounds))
        case And(filters):
            return _wrapped("and", _list(filters))
        case Or(filters):
            return _wrapped("or", _list(filters))
        case Not(inner):
            return _wrapped("not", filter_message(inner))
    raise InvalidRequest(f"where: {type(where).__name__} is no filter, one of Eq, In, Range, And, Or, Not is needed")


def _wrapped(kind: Literal["in", "and", "or", "not"], message: Message) -> filter_pb2.Filter:
    """Set a member whose name is a word of Python."""
    result = filter_pb2.Filter()
    member: Message = getattr(result, kind)
    member.CopyFrom(message)
    member.SetInParent()  # also when it is empty, for the server to refuse
    return result


def _list(filters: Sequence[Where]) -> filter_pb2.FilterList:
    return filter_pb2.FilterList(filters=[filter_message(each) for each in filters])


def _value(field: str, value: Value) -> filter_pb2.FieldValue:
    plain = value.item() if isinstance(value, np.generic) else value
    match plain:
        case bool():
            return filter_pb2.FieldValue(bool=plain)
        case int() if _INT_MIN <= plain <= _INT_MAX:
            return filter_pb2.FieldValue(int=plain)
        case float():
            return filter_pb2.FieldValue(float=plain)
        case str():
            try:
                return filter_pb2.FieldValue(keyword=plain)
            except ValueError:
                raise InvalidRequest(f"where: value of {field!r}: {plain!a:.80} is not valid Unicode") from None
    raise InvalidRequest(f"where: value of {field!r}: {plain!r:.80}, a str, bool, float or 64-bit int is needed")


def _bound(field: str, bound: float | None) -> float | None:
    """Bounds travel as float64; one that would be another number there is refused."""
    if bound is None:
        return None
    try:
        sent = float(bound)
    except (TypeError, ValueError, OverflowError):
        raise InvalidRequest(f"where: bound of {field!r}: {bound!r:.80}, a number is needed") from None
    if isinstance(bound, str | bool) or sent != bound:
        raise InvalidRequest(f"where: bound of {field!r}: {bound!r:.80}, a number that float64 holds is needed")
    return sent
