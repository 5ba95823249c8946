"""Filters on the wire become filters of the engine, checked against the declared fields. Pure."""

import math
from collections.abc import Sequence
from typing import Final

from csr.v1 import filter_pb2
from services.index.core.fields import Declared, FieldType, is_value_of
from services.index.core.where import And, Eq, In, Not, Or, Range, Where
from services.runtime import limits
from services.runtime.errors import InvalidRequest, LimitExceeded

_INT_MIN: Final = -(1 << 63)
_INT_MAX: Final = (1 << 63) - 1
_Value = str | int | float | bool


def where_from_proto(filter: filter_pb2.Filter, field: str, declared: Declared) -> Where | None:
    """Return the filter, None for an empty one.

    An int serves as a value of a float field, as it does in payloads. Bounds of int fields may be fractions.

    Args:
        filter: The message; an empty one says nothing.
        field: Its name in the request, for error texts.
        declared: The fields of the collection.

    Raises:
        InvalidRequest: a field that is not declared, a value of another type, something empty, or a kind of filter
            that this release does not know; the text names the place, such as where.and[1].equals.value.
        LimitExceeded: nested too deeply, or too many values.
    """
    if filter.ByteSize() == 0:
        return None
    return _Reader(declared).read(filter, field, depth=1)


class _Reader:
    """Reads one filter; counts its values."""

    def __init__(self, declared: Declared) -> None:
        self._declared = declared
        self._values = 0

    def read(self, filter: filter_pb2.Filter, place: str, depth: int) -> Where:
        if depth > limits.FILTER_DEPTH_MAX:
            raise LimitExceeded(f"{place}: nested deeper than {limits.FILTER_DEPTH_MAX} levels")
        kind = filter.WhichOneof("kind")
        if kind is None:
            raise InvalidRequest(f"{place}: equals, in, range, and, or or not is needed")
        place = f"{place}.{kind}"
        match kind:
            case "equals":
                return self._equals(filter.equals, place)
            case "in":
                return self._in(getattr(filter, "in"), place)
            case "range":
                return self._range(filter.range, place)
            case "not":
                return Not(self.read(getattr(filter, "not"), place, depth + 1))
            case "and":
                return And(self._list(getattr(filter, "and"), place, depth))
            case "or":
                return Or(self._list(getattr(filter, "or"), place, depth))

    def _equals(self, equals: filter_pb2.Equals, place: str) -> Eq:
        kind = self._kind(equals.field, place)
        return Eq(equals.field, self._value(equals.value, kind, equals.field, f"{place}.value"))

    def _in(self, within: filter_pb2.In, place: str) -> In:
        kind = self._kind(within.field, place)
        if not within.values:
            raise InvalidRequest(f"{place}.values: empty, at least one is needed")
        values = (
            self._value(value, kind, within.field, f"{place}.values[{position}]")
            for position, value in enumerate(within.values)
        )
        return In(within.field, tuple(values))

    def _range(self, message: filter_pb2.Range, place: str) -> Range:
        kind = self._kind(message.field, place)
        if kind not in ("int", "float"):
            raise InvalidRequest(f"{place}.field: {message.field!r} is {kind}, a range needs int or float")
        bounds = {name: getattr(message, name) for name in ("gte", "gt", "lte", "lt") if message.HasField(name)}
        if not bounds:
            raise InvalidRequest(f"{place}: gte, gt, lte or lt is needed")
        for name, bound in bounds.items():
            self._count(f"{place}.{name}")
            if not math.isfinite(bound):
                raise InvalidRequest(f"{place}.{name}: {bound}, must be finite")
        return Range(message.field, **bounds) if kind == "float" else _int_range(message.field, bounds)

    def _list(self, message: filter_pb2.FilterList, place: str, depth: int) -> tuple[Where, ...]:
        if not message.filters:
            raise InvalidRequest(f"{place}.filters: empty, at least one is needed")
        return tuple(
            self.read(child, f"{place}[{position}]", depth + 1) for position, child in enumerate(message.filters)
        )

    def _kind(self, name: str, place: str) -> FieldType:
        kind = self._declared.get(name)
        if kind is None:
            known = ", ".join(sorted(self._declared)) or "none"
            raise InvalidRequest(f"{place}.field: {name[:80]!r} is not declared, the collection's fields are: {known}")
        return kind

    def _value(self, message: filter_pb2.FieldValue, kind: FieldType, name: str, place: str) -> _Value:
        self._count(place)
        sent = message.WhichOneof("value")
        if sent is None:
            raise InvalidRequest(f"{place}: keyword, int, float or bool is needed")
        value: _Value = getattr(message, sent)
        if not is_value_of("keyword" if kind == "keywords" else kind, value):
            raise InvalidRequest(f"{place}: {sent} {value!r:.80}, field {name!r} is {kind}")
        return value

    def _count(self, place: str) -> None:
        self._values += 1
        if self._values > limits.FILTER_VALUES_MAX:
            raise LimitExceeded(f"{place}: at most {limits.FILTER_VALUES_MAX} values are allowed in a filter")


def _int_range(field: str, bounds: dict[str, float]) -> Range:
    """Return the whole numbers within bounds that may be fractions, or beyond 64 bits."""
    lowest: Sequence[int] = [
        _INT_MIN,
        *(math.ceil(bound) for name, bound in bounds.items() if name == "gte"),
        *(math.floor(bound) + 1 for name, bound in bounds.items() if name == "gt"),
    ]
    highest: Sequence[int] = [
        _INT_MAX,
        *(math.floor(bound) for name, bound in bounds.items() if name == "lte"),
        *(math.ceil(bound) - 1 for name, bound in bounds.items() if name == "lt"),
    ]
    low, high = max(lowest), min(highest)
    return Range(field, gt=_INT_MAX) if low > _INT_MAX or high < _INT_MIN else Range(field, gte=low, lte=high)
