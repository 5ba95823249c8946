"""Declared fields of documents: read from payloads, checked at the door. Pure."""

import json
from collections.abc import Mapping
from typing import Any, Final

from services.index.core.fields import Declared, FieldType, is_value_of
from services.runtime.errors import InvalidRequest

_MEANING: Final[Mapping[FieldType, str]] = {
    "keyword": "a string",
    "int": "a signed 64-bit integer",
    "float": "a finite number",
    "bool": "true or false",
    "keywords": "a list of strings",
}


def field_values(payload: bytes, declared: Declared) -> dict[str, Any] | None:
    """Return the values of the declared fields that a payload has; None when it has none.

    Args:
        payload: A JSON object that check_fields let in, or empty.
        declared: The fields of the collection; a member that is null counts as missing.
    """
    if not declared or not payload:
        return None
    members = json.loads(payload)
    return {name: members[name] for name in declared if members.get(name) is not None} or None


def check_fields(members: Mapping[str, object], declared: Declared, field: str) -> None:
    """Check that every declared field of a payload is missing, null, or of its type.

    Args:
        members: The payload, parsed.
        declared: The fields of the collection.
        field: Name of the payload in the request, for error texts.

    Raises:
        InvalidRequest: naming the member and the type that it must have.
    """
    for name, kind in declared.items():
        value = members.get(name)
        if value is not None and not is_value_of(kind, value):
            raise InvalidRequest(f"{field}.{name}: {value!r:.80}, the field is {kind}: {_MEANING[kind]} is needed")
