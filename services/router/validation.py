"""What the door lets in: checks of single fields, each with an error that names the field and the limit. Pure."""

import json
from collections.abc import Sequence
from typing import NoReturn

from csr.v1 import vector_pb2
from services.index.core.fields import Declared
from services.index.fields import check_fields
from services.index.store.catalog import CollectionRecord
from services.runtime import limits
from services.runtime.errors import InvalidRequest, LimitExceeded, WrongKind


def check_ids(ids: Sequence[str], most: int = limits.DOCUMENTS_PER_REQUEST_MAX, unique: bool = True) -> None:
    """Check document ids: 1..most of them, 1..128 bytes each, without repeats unless allowed.

    Raises:
        InvalidRequest, LimitExceeded: naming the first offending id.
    """
    check_count("ids", len(ids), most)
    for position, id in enumerate(ids):
        check_size(f"ids[{position}]", id, limits.ID_BYTES_MAX)
    if unique and len(set(ids)) < len(ids):
        seen: set[str] = set()
        for position, id in enumerate(ids):
            if id in seen:
                raise InvalidRequest(f"ids[{position}]: {id!r} was listed before, ids are unique within a request")
            seen.add(id)


def check_count(field: str, count: int, most: int) -> None:
    """Check that a list has 1..most items.

    Raises:
        InvalidRequest: it is empty.
        LimitExceeded: it is longer.
    """
    if count == 0:
        raise InvalidRequest(f"{field}: empty, 1..{most} are needed")
    if count > most:
        raise LimitExceeded(f"{field}: {count}, at most {most} are allowed")


def check_size(field: str, text: str, most: int) -> None:
    """Check that a text has 1..most bytes of UTF-8.

    Raises:
        InvalidRequest: it is empty.
        LimitExceeded: it is longer.
    """
    size = len(text.encode())
    if size == 0:
        raise InvalidRequest(f"{field}: empty, 1..{most} bytes are needed")
    if size > most:
        raise LimitExceeded(f"{field}: {size} bytes, at most {most} are allowed")


def check_number(field: str, value: int, most: int) -> None:
    """Check that a number lies in 1..most.

    Raises:
        InvalidRequest: it is 0.
        LimitExceeded: it is larger.
    """
    if value < 1:
        raise InvalidRequest(f"{field}: {value}, must be 1..{most}")
    if value > most:
        raise LimitExceeded(f"{field}: {value}, at most {most} is allowed")


def checked_versions(versions: Sequence[int], count: int, record: CollectionRecord) -> Sequence[int]:
    """Return one version per document; 0 where the store assigns it.

    Raises:
        InvalidRequest: versions where the store assigns them, too few or too many, or 0.
        LimitExceeded: a version beyond 2^53 - 1.
    """
    if record.versioning == "assigned":
        if versions:
            raise InvalidRequest("versions: the store assigns the versions of this collection, leave them out")
        return [0] * count
    if len(versions) != count:
        raise InvalidRequest(f"versions: {len(versions)}, this collection needs one for each of {count} ids")
    for position, version in enumerate(versions):
        check_number(f"versions[{position}]", version, limits.VERSION_MAX)
    return versions


def checked_payloads(payloads: Sequence[str], count: int, record: CollectionRecord) -> list[bytes]:
    """Return one payload per document, as sent; empty where there is none.

    Raises:
        InvalidRequest: too few or too many, not a JSON object, or a declared field of another type.
        LimitExceeded: over 64 KiB.
    """
    if not payloads:
        return [b""] * count
    if len(payloads) != count:
        raise InvalidRequest(f"payloads_json: {len(payloads)}, either one for each of {count} ids or none is needed")
    return [
        checked_payload(f"payloads_json[{position}]", payload, record.fields)
        for position, payload in enumerate(payloads)
    ]


Batch = vector_pb2.EmbeddingBatch | vector_pb2.TextBatch | vector_pb2.CodeBatch
"""Vectors as requests carry them."""


def check_form(field: str | None, allowed: Sequence[str], record: CollectionRecord) -> str:
    """Return the field in which a request carries vectors.

    Args:
        field: The one that is set; None when none is.
        allowed: Those that the collection takes here.
        record: The collection.

    Raises:
        InvalidRequest: no vectors.
        WrongKind: vectors of a form that the collection does not take.
    """
    if field is None:
        raise InvalidRequest(f"{', '.join(allowed)}: one of them is needed")
    if field not in allowed:
        raise WrongKind(f"{field}: collection {record.name!r} is of kind {record.kind}, send {' or '.join(allowed)}")
    return field


def vector_count(batch: Batch) -> int:
    """Return how many vectors a batch says it holds."""
    return len(batch.texts) if isinstance(batch, vector_pb2.TextBatch) else batch.count


def check_texts(batch: vector_pb2.TextBatch) -> None:
    """Check texts: none empty, none over 64 KiB.

    Raises:
        InvalidRequest, LimitExceeded: naming the first offending text.
    """
    for position, text in enumerate(batch.texts):
        check_size(f"texts[{position}]", text, limits.TEXT_BYTES_MAX)


def checked_payload(field: str, payload: str, declared: Declared) -> bytes:
    """Return a payload as it is stored.

    Raises:
        InvalidRequest: not a JSON object, or a declared field of another type.
        LimitExceeded: over 64 KiB, or nested too deeply.
    """
    raw = payload.encode()
    if len(raw) > limits.PAYLOAD_BYTES_MAX:
        raise LimitExceeded(f"{field}: {len(raw)} bytes, at most {limits.PAYLOAD_BYTES_MAX} are allowed")
    try:
        value = json.loads(payload, parse_constant=_refuse_constant)
    except RecursionError:
        raise _too_deep(field) from None
    except ValueError as error:
        raise InvalidRequest(f"{field}: not JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidRequest(f"{field}: a JSON object is needed, not {type(value).__name__}")
    if raw.count(b"{") + raw.count(b"[") > limits.PAYLOAD_DEPTH_MAX and not _within_depth(value):
        raise _too_deep(field)
    check_fields(value, declared, field)
    return raw


def _within_depth(value: object) -> bool:
    """Return whether no more than PAYLOAD_DEPTH_MAX objects and lists are within each other."""
    level = [value]
    for _ in range(limits.PAYLOAD_DEPTH_MAX + 1):
        level = [
            child
            for item in level
            if isinstance(item, dict | list)
            for child in (item.values() if isinstance(item, dict) else item)
        ]
    return not level


def _too_deep(field: str) -> LimitExceeded:
    return LimitExceeded(f"{field}: nested too deeply, at most {limits.PAYLOAD_DEPTH_MAX} levels are allowed")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
