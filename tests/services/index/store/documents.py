"""Writes for tests: small documents whose input is one number."""

import numpy as np

from services.index.store.entry import DocumentBody, QuantisedCode, input_digest
from services.index.store.writer import DocumentWrite, PayloadWrite


def upsert(
    id: str,
    version: int = 0,
    value: int = 0,
    payload: bytes = b"{}",
    if_version: int = 0,
    generations: tuple[int, ...] = (1,),
) -> DocumentWrite:
    """Return a write of a document that `value` determines, encoded for these generations."""
    code = QuantisedCode(np.array([value % 64, 64], np.uint16), np.array([60_000, 20_000], np.uint16))
    body = DocumentBody(np.full(4, value, np.float16), payload, dict.fromkeys(generations, code))
    digest = input_digest(b"upsert", value.to_bytes(8), payload)
    return DocumentWrite(id, version, False, body, digest, if_version)


def delete(id: str, version: int = 0, if_version: int = 0) -> DocumentWrite:
    """Return a write that deletes a document."""
    return DocumentWrite(id, version, True, None, input_digest(b"delete"), if_version)


def update(id: str, version: int = 0, payload: bytes = b"{}") -> PayloadWrite:
    """Return a write of another payload."""
    return PayloadWrite(id, version, payload, input_digest(b"payload", payload))
