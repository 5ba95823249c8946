"""Embeddings, texts and codes on the wire. Pure."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from csr.v1 import search_pb2, vector_pb2
from services.client.arguments import check_texts
from services.client.types import Codes, Floats
from services.runtime import limits
from services.runtime.codec import RaggedCodes, codes_to_proto, embeddings_to_proto
from services.runtime.errors import InvalidRequest

Vectors = Floats | Sequence[str] | Codes

Message = TypeVar(
    "Message", search_pb2.UpsertRequest, search_pb2.UpsertChunk, search_pb2.SearchRequest, search_pb2.ExplainRequest
)


def one_form(
    embeddings: Floats | None, texts: Sequence[str] | None, codes: Codes | None, **ids: Sequence[str] | None
) -> Vectors | None:
    """Return the vectors that were given; None when ids of stored documents were given instead.

    Args:
        embeddings: One of the forms.
        texts: Another one.
        codes: Another one.
        ids: At most one list of ids, under the name that the caller has for it.

    Raises:
        InvalidRequest: not exactly one of them, or arrays of the wrong shape or type.
    """
    given = {"embeddings": embeddings, "texts": texts, "codes": codes, **ids}
    present = [value for value in given.values() if value is not None]
    if len(present) != 1:
        raise InvalidRequest(f"{', '.join(given)}: exactly one of them is needed, not {len(present)}")
    if texts is not None:
        check_texts("texts", texts)
    if embeddings is not None and embeddings.ndim != 2:
        raise InvalidRequest(f"embeddings: shape {list(embeddings.shape)}, [n, d] is needed")
    if codes is not None and (codes.latents.ndim != 2 or codes.latents.shape != codes.weights.shape):
        shapes = f"{list(codes.latents.shape)} and {list(codes.weights.shape)}"
        raise InvalidRequest(f"codes: latents and weights have shapes {shapes}, [n, k] for both is needed")
    if codes is not None and codes.latents.dtype.kind not in "iu":
        raise InvalidRequest(f"codes: latents are {codes.latents.dtype}, integers are needed")
    return None if any(value is not None for value in ids.values()) else present[0]


def with_vectors(message: Message, vectors: Vectors, rows: slice) -> Message:
    """Put rows of the vectors into a message and return it."""
    if isinstance(vectors, Codes):
        message.codes.CopyFrom(_code_batch(vectors, rows))
    elif isinstance(vectors, np.ndarray):
        message.embeddings.CopyFrom(embeddings_to_proto(vectors[rows]))
    else:
        message.texts.CopyFrom(vector_pb2.TextBatch(texts=vectors[rows]))
    return message


def vector_count(vectors: Vectors) -> int:
    """Return how many there are."""
    return len(vectors.latents) if isinstance(vectors, Codes) else len(vectors)


def vector_bytes(vectors: Vectors) -> list[int]:
    """Return an upper bound of what each vector adds to a message."""
    if isinstance(vectors, Codes):
        return [2 + 6 * vectors.latents.shape[1]] * len(vectors.latents)
    if isinstance(vectors, np.ndarray):
        return [4 * vectors.shape[1]] * len(vectors)
    return [len(text.encode()) for text in vectors]


def codes_of(batch: vector_pb2.CodeBatch) -> list[tuple[NDArray[np.uint16], NDArray[np.float32]]]:
    """Return latents and weights of each code of an answer."""
    if batch.count == 0:
        return []
    ends = np.cumsum(np.frombuffer(batch.lengths, "<u2"), dtype=np.int64)[:-1]
    latents = np.split(np.frombuffer(batch.latents, "<u2"), ends)
    weights = np.split(np.frombuffer(batch.weights, "<f4"), ends)
    return list(zip(latents, weights, strict=True))


def _code_batch(codes: Codes, rows: slice) -> vector_pb2.CodeBatch:
    latents, weights = codes.latents[rows], codes.weights[rows]
    if latents.size and not 0 <= latents.min() <= latents.max() < limits.HIDDEN_DIM_MAX:
        raise InvalidRequest(f"codes: latents lie in 0..{limits.HIDDEN_DIM_MAX - 1}")
    # Everything that is not padding crosses the wire, so that the server judges wrong weights, not this function.
    listed = np.cumsum(weights[:, ::-1] != 0, axis=1)[:, ::-1] > 0
    lengths = listed.sum(axis=1)
    ragged = RaggedCodes(
        lengths.astype(np.uint16), latents[listed].astype(np.uint16), weights[listed].astype(np.float32)
    )
    return codes_to_proto(ragged, codes.fingerprint)
