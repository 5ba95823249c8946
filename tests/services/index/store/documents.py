"""Writes for tests: small documents whose input is one number."""

import numpy as np

from services.index.store.entry import DocumentBody, QuantisedCode, input_digest
from services.index.store.writer import DocumentWrite


def upsert(id: str, version: int = 0, value: int = 0, payload: bytes = b"{}") -> DocumentWrite:
    """Return a write of a document that `value` determines."""
    code = QuantisedCode(np.array([value % 64, 64], np.uint16), np.array([60_000, 20_000], np.uint16))
    body = DocumentBody(np.full(4, value, np.float16), payload, {1: code})
    return DocumentWrite(id, version, False, body, input_digest(b"upsert", value.to_bytes(8), payload))


def delete(id: str, version: int = 0) -> DocumentWrite:
    """Return a write that deletes a document."""
    return DocumentWrite(id, version, True, None, input_digest(b"delete"))
