"""Declared fields: their types, and the check of one document's values."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias, cast, get_args

import numpy as np

from services.index.core.errors import InvalidField, InvalidIndex, InvalidRows, UnknownField

FieldType = Literal["keyword", "int", "float", "bool", "keywords"]
FIELD_TYPES: Final[tuple[str, ...]] = get_args(FieldType)
Declared: TypeAlias = Mapping[str, FieldType]
Record: TypeAlias = Mapping[str, Any]
"""The field values of one document; a field that is absent or None is missing."""


def declare(fields: Mapping[str, str] | None) -> Declared:
    """Check a declaration {name: type}.

    Raises:
        InvalidIndex: not a mapping, a name that is no text, or a type not in FIELD_TYPES.
    """
    if not isinstance(fields, Mapping | None):
        raise InvalidIndex(f"fields must be a mapping from name to type, not {type(fields).__name__}")
    for name, kind in (fields or {}).items():
        if not isinstance(name, str) or not name:
            raise InvalidIndex(f"field names must be non-empty text, not {name!r}")
        if kind not in FIELD_TYPES:
            raise InvalidIndex(f"field {name!r} must be one of {', '.join(FIELD_TYPES)}, not {kind!r}")
    return cast(Declared, dict(fields or {}))


def check_records(declared: Declared, records: Sequence[Record | None] | None, count: int) -> list[Record]:
    """Return one record for each of `count` documents, every value of its declared type.

    Raises:
        InvalidRows: not a sequence, or another number of records.
        UnknownField: a field that was not declared.
        InvalidField: a record that is no mapping, or a value of another type.
    """
    if records is None:
        return [{}] * count
    if not isinstance(records, Sequence):
        raise InvalidRows(f"fields must be a sequence of records, not {type(records).__name__}")
    if len(records) != count:
        raise InvalidRows(f"fields must have one record for each of {count} ids, not {len(records)}")
    return [{} if record is None else _checked(declared, at, record) for at, record in enumerate(records)]


def _checked(declared: Declared, position: int, record: Record) -> Record:
    if not isinstance(record, Mapping):
        raise InvalidField(f"fields[{position}] must be a mapping from name to value, not {type(record).__name__}")
    for name, value in record.items():
        if name not in declared:
            raise UnknownField(f"fields[{position}]: {name!r} is not declared")
        if value is not None and not is_value_of(declared[name], value):
            raise InvalidField(f"fields[{position}]: {name!r} must be {declared[name]}, not {value!r:.80}")
    return record


def is_value_of(kind: FieldType, value: object) -> bool:
    """Return whether a document may hold this value: int within 64 bits, float finite, an int also serves as float.

    Numbers and bools may be numpy's.
    """
    match kind:
        case "keyword":
            return is_keyword(value)
        case "keywords":
            return isinstance(value, list | tuple) and all(is_keyword(item) for item in value)
        case "bool":
            return isinstance(value, bool | np.bool_)
        case "int":
            return _is_int(value)
        case "float":
            return _is_int(value) or (isinstance(value, float | np.floating) and math.isfinite(value))


def is_keyword(value: object) -> bool:
    """Return whether the value is text that UTF-8 can hold."""
    return isinstance(value, str) and (value.isascii() or not any("\ud800" <= char <= "\udfff" for char in value))


def _is_int(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and bool(-(1 << 63) <= value < 1 << 63)
