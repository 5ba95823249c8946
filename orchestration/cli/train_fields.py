"""Fields of CSRConfig as words of a command line."""

from collections.abc import Collection, Sequence
from json import loads
from types import UnionType
from typing import Any, Final, Literal, get_args, get_origin, get_type_hints

import typer

from csr_model import CSRConfig

_FROM_DATA: Final = "input_dim"


def parsed_fields(given: Sequence[str], own_options: Collection[str]) -> dict[str, Any]:
    """Return NAME=VALUE by name; values are JSON, such as 0.1 or [8,32], or else words.

    What is checked here is what each field could be; CSRConfig says which values are in range.

    Args:
        given: Each of the form NAME=VALUE.
        own_options: Fields that an option of their own sets.

    Raises:
        BadParameter: Not of that form, a field that there is not, one that is set otherwise or twice, or a value of
            another type.
    """
    types = get_type_hints(CSRConfig)
    fields: dict[str, Any] = {}
    for each in given:
        name, equals, text = each.partition("=")
        if not equals:
            raise _refused(f"{each!r} is not of the form NAME=VALUE")
        if name in own_options:
            raise _refused(f"{name} has an option of its own, --{name.replace('_', '-')}")
        if name == _FROM_DATA:
            raise _refused(f"{name} follows from the embeddings")
        if name not in types:
            settable = (known for known in types if known != _FROM_DATA and known not in own_options)
            raise _refused(f"there is no {name!r}; there are: {', '.join(settable)}")
        if name in fields:
            raise _refused(f"{name} is given twice")
        fields[name] = _value(text)
        if not _fits(fields[name], types[name]):
            raise _refused(f"{name} is {text!r}; {_wanted(types[name])} is needed")
    return fields


def _refused(why: str) -> typer.BadParameter:
    return typer.BadParameter(why, param_hint="--set")


def _value(text: str) -> Any:
    try:
        return loads(text)
    except ValueError:
        return text


def _fits(value: object, kind: Any) -> bool:
    if get_origin(kind) is UnionType:
        return any(_fits(value, each) for each in get_args(kind))
    if get_origin(kind) is tuple:
        return isinstance(value, list) and all(_fits(each, get_args(kind)[0]) for each in value)
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is kind


def _wanted(kind: Any) -> str:
    if get_origin(kind) is UnionType:
        return " or ".join(_wanted(each) for each in get_args(kind))
    if get_origin(kind) is tuple:
        return "a list of whole numbers, such as [8,32],"
    if get_origin(kind) is Literal:
        return " or ".join(get_args(kind))
    return {int: "a whole number", float: "a number", bool: "true or false", type(None): "null"}[kind]
