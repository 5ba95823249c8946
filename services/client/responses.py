"""Responses become what the client returns. Pure."""

import json
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from csr.v1 import control_pb2, search_pb2, vector_pb2
from services.client import types

_STATUS: Final[dict[int, types.WriteStatus]] = {
    search_pb2.WRITE_STATUS_APPLIED: "applied",
    search_pb2.WRITE_STATUS_UNCHANGED: "unchanged",
    search_pb2.WRITE_STATUS_STALE: "stale",
    search_pb2.WRITE_STATUS_CONFLICT: "conflict",
}
_KIND: Final[dict[int, types.Kind]] = {
    control_pb2.COLLECTION_KIND_DENSE: "dense",
    control_pb2.COLLECTION_KIND_CODES: "codes",
}
_VERSIONING: Final[dict[int, types.Versioning]] = {
    control_pb2.VERSIONING_ASSIGNED: "assigned",
    control_pb2.VERSIONING_CLIENT: "client",
}
_GENERATION_STATE: Final[dict[int, types.GenerationState]] = {
    control_pb2.GENERATION_STATE_BUILDING: "building",
    control_pb2.GENERATION_STATE_ACTIVE: "active",
    control_pb2.GENERATION_STATE_RETAINED: "retained",
}


def write_result(
    responses: Sequence[search_pb2.UpsertResponse] | Sequence[search_pb2.DeleteResponse], write_id: str
) -> types.WriteResult:
    """Join the responses to the parts of one write, at least one."""
    last = responses[-1].token.collection_id
    positions: dict[int, int] = {}
    for response in responses:
        if response.token.collection_id == last:
            for position in response.token.positions:
                positions[position.partition] = max(position.lsn, positions.get(position.partition, 0))
    results = [
        types.DocumentWrite(_STATUS[result.status], result.version)
        for response in responses
        for result in response.results
    ]
    return types.WriteResult(results, types.Token(last, positions), write_id)


def documents(response: search_pb2.GetResponse) -> types.Documents:
    """Translate what Get found."""
    embeddings: Sequence[NDArray[np.float32] | None] = [None] * len(response.documents)
    codes: Sequence[tuple[NDArray[np.uint16], NDArray[np.float32]] | tuple[None, None]]
    codes = [(None, None)] * len(response.documents)
    if response.HasField("embeddings"):
        batch = response.embeddings
        embeddings = list(np.frombuffer(batch.values, "<f4").reshape(batch.count, batch.dim))
    if response.HasField("codes"):
        codes = _codes(response.codes)
    return types.Documents(
        [
            types.Document(document.id, document.version, _payload(document.payload_json), embedding, *code)
            for document, embedding, code in zip(response.documents, embeddings, codes, strict=True)
        ],
        list(response.missing),
    )


def count_result(response: search_pb2.CountResponse) -> types.CountResult:
    """Translate a count."""
    return types.CountResult(response.count, _token(response.token))


def search_result(response: search_pb2.SearchResponse) -> types.SearchResult:
    """Translate hits and receipt."""
    receipt = response.receipt
    return types.SearchResult(
        [
            [types.Hit(hit.id, hit.score, _payload(hit.payload_json)) for hit in query_hits.hits]
            for query_hits in response.results
        ],
        types.Receipt(
            collection_id=receipt.collection_id,
            generation=receipt.generation,
            model=_model(receipt.model),
            k_query=receipt.k_query,
            k_docs=receipt.k_docs,
            coverage=receipt.coverage,
            token=_token(receipt.token),
            payloads_missing=receipt.payloads_missing,
        ),
    )


def collection(message: control_pb2.Collection) -> types.Collection:
    """Translate the description of a collection."""
    return types.Collection(
        name=message.name,
        collection_id=message.collection_id,
        kind=_KIND[message.kind],
        versioning=_VERSIONING[message.versioning],
        input_dim=message.input_dim,
        hidden_dim=message.hidden_dim,
        k_max=message.k_max,
        partitions=message.partitions,
        generations=[
            types.Generation(generation.generation, _GENERATION_STATE[generation.state], _model(generation.model))
            for generation in message.generations
        ],
    )


def collection_description(response: control_pb2.DescribeCollectionResponse) -> types.CollectionDescription:
    """Translate a collection and its state."""
    return types.CollectionDescription(
        collection(response.collection),
        response.documents,
        [
            types.PartitionState(
                state.partition, state.lsn, state.documents, state.index_server, state.visible_lsn, state.ready
            )
            for state in response.partitions
        ],
        response.appendfsync,
    )


def deployment_status(response: control_pb2.GetStatusResponse) -> types.DeploymentStatus:
    """Translate the state of the deployment."""
    return types.DeploymentStatus(
        [
            types.ProcessStatus(process.name, process.address, process.ready, process.detail)
            for process in response.processes
        ],
        response.max_lag,
    )


def _payload(text: str) -> dict[str, Any] | None:
    if not text:
        return None
    payload: dict[str, Any] = json.loads(text)
    return payload


def _model(message: vector_pb2.ModelVersion) -> types.Model:
    return types.Model(message.name, message.version, message.fingerprint)


def _token(message: search_pb2.Token) -> types.Token:
    return types.Token(message.collection_id, {position.partition: position.lsn for position in message.positions})


def _codes(batch: vector_pb2.CodeBatch) -> list[tuple[NDArray[np.uint16], NDArray[np.float32]]]:
    if batch.count == 0:
        return []
    ends = np.cumsum(np.frombuffer(batch.lengths, "<u2"), dtype=np.int64)[:-1]
    latents = np.split(np.frombuffer(batch.latents, "<u2"), ends)
    weights = np.split(np.frombuffer(batch.weights, "<f4"), ends)
    return list(zip(latents, weights, strict=True))
