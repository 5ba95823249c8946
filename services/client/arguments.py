"""Mistakes that Python makes easy, found before anything is sent. Pure."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from services.client.types import Payload
from services.runtime import limits
from services.runtime.errors import InvalidRequest


def check_texts(field: str, texts: Sequence[str]) -> None:
    """Check ids or texts: a str by itself is a sequence of str, too, but never meant as one.

    Raises:
        InvalidRequest: naming the first that is no text.
    """
    if isinstance(texts, str):
        raise InvalidRequest(f"{field}: one str, a list of them is needed")
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            raise InvalidRequest(f"{field}[{position}]: {type(text).__name__}, str is needed")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InvalidRequest(f"{field}[{position}]: {text!a:.80} is not valid Unicode") from None


def check_ids(ids: Sequence[str]) -> None:
    """Check the ids of a write; see check_texts.

    Raises:
        InvalidRequest: also when there are none.
    """
    check_texts("ids", ids)
    if len(ids) == 0:
        raise InvalidRequest("ids: empty, at least one is needed")


def check_lengths(ids: Sequence[str], **lengths: int | None) -> None:
    """Check that there is one of each per id; None stands for a list that was not given.

    Raises:
        InvalidRequest: naming the list.
    """
    for name, length in lengths.items():
        if length not in (None, len(ids)):
            raise InvalidRequest(f"{name}: {length} for {len(ids)} ids, as many are needed")


def check_numbers(**numbers: int) -> None:
    """Check numbers that travel as uint32.

    Raises:
        InvalidRequest: naming the first that is no whole number or out of range.
    """
    for field, number in numbers.items():
        if not isinstance(number, int | np.integer) or not 0 <= number < 1 << 32:
            raise InvalidRequest(f"{field}: {number}, a whole number from 0 to 2^32 - 1 is needed")


def check_versions(versions: Sequence[int] | None) -> None:
    """Check versions; which of them a collection takes is for the server to judge.

    Raises:
        InvalidRequest: naming the first that cannot be sent.
    """
    for position, version in enumerate(() if versions is None else versions):
        if not isinstance(version, int | np.integer) or not 0 <= version < 1 << 64:
            raise InvalidRequest(f"versions[{position}]: {version}, 1..{limits.VERSION_MAX} is needed")


def length(values: Sequence[Any] | None) -> int | None:
    """Return the length, None for nothing."""
    return None if values is None else len(values)


def payload_json(position: int, payload: Payload) -> str:
    """Return a payload as it is stored.

    Raises:
        InvalidRequest: naming its position, when it is not JSON.
    """
    try:
        return json.dumps(payload, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"payloads[{position}]: not JSON: {error}") from None
