"""Stored embeddings and codes on their way out, as answers or as queries. Pure."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from csr.v1 import vector_pb2
from services.index.core.code import WEIGHT_ONE
from services.index.store.catalog import CollectionRecord, GenerationRecord
from services.index.store.entry import QuantisedCode
from services.index.store.reader import StoredDocument
from services.runtime.codec import RaggedCodes, codes_to_proto, embeddings_to_proto
from services.runtime.errors import WrongState

_NO_CODE = QuantisedCode(np.empty(0, np.uint16), np.empty(0, np.uint16))


def embeddings_of(record: CollectionRecord, documents: Sequence[StoredDocument]) -> NDArray[np.float16]:
    """Return stored embeddings [n, input_dim], zeros for a document without one."""
    rows = np.zeros((len(documents), record.input_dim), np.float16)
    for row, document in zip(rows, documents, strict=True):
        if document.body.embedding is not None:
            row[:] = document.body.embedding
    return rows


def embeddings_message(record: CollectionRecord, documents: Sequence[StoredDocument]) -> vector_pb2.EmbeddingBatch:
    """Return the embeddings of documents, for an answer."""
    return embeddings_to_proto(embeddings_of(record, documents))


def codes_message(record: CollectionRecord, documents: Sequence[StoredDocument]) -> vector_pb2.CodeBatch:
    """Return the codes of the active generation, for an answer; empty where a document was not encoded for it yet."""
    codes = [document.body.codes.get(record.active.generation, _NO_CODE) for document in documents]
    return _message(record.active, codes, [code.weights / WEIGHT_ONE for code in codes])


def query_codes(record: CollectionRecord, documents: Sequence[StoredDocument]) -> vector_pb2.CodeBatch:
    """Return the codes of the active generation as queries that are quantised to exactly what is stored.

    Raises:
        WrongState: a document was not encoded for the active generation yet.
    """
    active = record.active
    for document in documents:
        if active.generation not in document.body.codes:
            raise WrongState(f"ids: {document.id!r} was not encoded for generation {active.generation} yet")
    codes = [document.body.codes[active.generation] for document in documents]
    return _message(active, codes, [unit_weights(code.weights) for code in codes])


def unit_weights(stored: NDArray[np.uint16]) -> NDArray[np.float64]:
    """Return weights of length 65535 that round to the stored ones.

    Stored weights were rounded after they had been scaled to that length, so their own length is another one, and
    scaling them again could move a weight to the next integer. But between all of them half a unit lower and all of
    them half a unit higher there are weights of that very length: ŵ + s with Σ(ŵ + s)² = 65535².
    """
    wide = stored.astype(np.float64)
    if not len(wide):
        return wide
    mean = float(wide.mean())
    excess = (float(np.sum(wide**2)) - WEIGHT_ONE**2) / len(wide)
    shift = math.sqrt(max(mean**2 - excess, 0.0)) - mean
    return wide + min(max(shift, -0.49), 0.49)


def _message(
    generation: GenerationRecord, codes: Sequence[QuantisedCode], weights: Sequence[NDArray[np.floating]]
) -> vector_pb2.CodeBatch:
    ragged = RaggedCodes(
        np.array([len(code.latents) for code in codes], np.uint16),
        np.concatenate([np.empty(0, np.uint16), *(code.latents for code in codes)]),
        np.concatenate([np.empty(0), *weights]).astype(np.float32),
    )
    return codes_to_proto(ragged, generation.fingerprint)
