"""What people type about declared fields: NAME:TYPE to declare one, FIELD=VALUE and ranges to filter by one."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, get_args

import typer

from services.client.filters import And, Eq, Range, Value, Where
from services.client.types import FieldType
from services.runtime.errors import InvalidRequest
from services.runtime.limits import FIELD_NAME_PATTERN

_TYPES: Final[Mapping[str, FieldType]] = {name: name for name in get_args(FieldType)}
_CONDITION: Final = re.compile(rf"({FIELD_NAME_PATTERN})(>=|<=|=|>|<)(.*)", re.DOTALL)
_BOUNDS: Final = {">=": "gte", ">": "gt", "<=": "lte", "<": "lt"}


@dataclass(frozen=True)
class Condition:
    """FIELD, then =, >=, >, <= or <, then VALUE."""

    field: str
    operator: str
    value: str


def parse_condition(text: str) -> Condition:
    """Return the condition behind its text.

    Raises:
        typer.BadParameter: it is none.
    """
    found = _CONDITION.fullmatch(text)
    if found is None:
        raise typer.BadParameter(f"{text!r} is not FIELD=VALUE, nor with >=, >, <= or <")
    return Condition(*found.groups())


def parse_fields(texts: Sequence[str]) -> dict[str, FieldType]:
    """Return the declared fields behind texts of the form NAME:TYPE.

    Raises:
        typer.BadParameter: one has another form or type, or a name comes twice.
    """
    fields: dict[str, FieldType] = {}
    for text in texts:
        name, _, kind = text.partition(":")
        if kind not in _TYPES or name in fields:
            reason = f"{name!r} comes twice" if name in fields else f"{text!r} is not NAME:TYPE"
            raise typer.BadParameter(f"{reason}; types are {', '.join(_TYPES)}", param_hint="--field")
        fields[name] = _TYPES[kind]
    return fields


def where_of(conditions: Sequence[Condition], declared: Mapping[str, FieldType]) -> Where | None:
    """Return the filter that asks for all of the conditions; None for none.

    Raises:
        InvalidRequest: a field that is not declared, or a value that its type does not take.
    """
    if not conditions:
        return None
    filters = [_filter(condition, declared) for condition in conditions]
    return filters[0] if len(filters) == 1 else And(filters)


def _filter(condition: Condition, declared: Mapping[str, FieldType]) -> Where:
    kind = declared.get(condition.field)
    if kind is None:
        known = ", ".join(declared) or "none"
        raise InvalidRequest(f"{condition.field}: not declared; the collection's fields are: {known}")
    value = _value(condition, kind)
    if condition.operator == "=":
        return Eq(condition.field, value)
    if isinstance(value, bool | str):
        raise InvalidRequest(f"{condition.field}: {kind} fields are compared with = only")
    return Range(condition.field, **{_BOUNDS[condition.operator]: value})


def _value(condition: Condition, kind: FieldType) -> Value:
    text = condition.value
    match kind:
        case "keyword" | "keywords":
            return text
        case "bool" if text in ("true", "false"):
            return text == "true"
        case "int" if re.fullmatch(r"[+-]?[0-9]{1,19}", text):
            return int(text)
        case "float" if (number := _number(text)) is not None:
            return number
    raise InvalidRequest(f"{condition.field}: {text!r} is no {kind}")


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
