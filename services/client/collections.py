"""Collections and the deployment: arguments become requests, responses become results. Pure."""

from collections.abc import Collection, Mapping
from typing import Final

from csr.v1 import control_pb2, filter_pb2, vector_pb2
from services.client import types
from services.client.arguments import check_numbers
from services.client.searches import model_of
from services.client.types import FieldType, Kind, Versioning
from services.runtime.errors import InvalidRequest

_KIND: Final[dict[Kind, "control_pb2.CollectionKind.ValueType"]] = {
    "dense": control_pb2.COLLECTION_KIND_DENSE,
    "codes": control_pb2.COLLECTION_KIND_CODES,
}
_VERSIONING: Final[dict[Versioning, "control_pb2.Versioning.ValueType"]] = {
    "assigned": control_pb2.VERSIONING_ASSIGNED,
    "client": control_pb2.VERSIONING_CLIENT,
}
_FIELD_TYPE: Final[dict[FieldType, "filter_pb2.FieldType.ValueType"]] = {
    "keyword": filter_pb2.FIELD_TYPE_KEYWORD,
    "int": filter_pb2.FIELD_TYPE_INT,
    "float": filter_pb2.FIELD_TYPE_FLOAT,
    "bool": filter_pb2.FIELD_TYPE_BOOL,
    "keywords": filter_pb2.FIELD_TYPE_KEYWORDS,
}
_KIND_OF: Final = {value: name for name, value in _KIND.items()}
_VERSIONING_OF: Final = {value: name for name, value in _VERSIONING.items()}
_FIELD_TYPE_OF: Final = {value: name for name, value in _FIELD_TYPE.items()}
_GENERATION_STATE: Final[dict[int, types.GenerationState]] = {
    control_pb2.GENERATION_STATE_BUILDING: "building",
    control_pb2.GENERATION_STATE_ACTIVE: "active",
    control_pb2.GENERATION_STATE_RETAINED: "retained",
}


def create_collection_request(
    name: str,
    kind: Kind,
    model: str,
    model_version: int,
    fingerprint: str,
    hidden_dim: int,
    k_max: int,
    partitions: int,
    versioning: Versioning,
    fields: Mapping[str, FieldType] | None,
) -> control_pb2.CreateCollectionRequest:
    """Return the request; see control.proto for what 0 and empty mean.

    Raises:
        InvalidRequest: a kind, versioning or type of field that there is not, or a number below 0.
    """
    _check_choice("kind", kind, _KIND)
    _check_choice("versioning", versioning, _VERSIONING)
    for field, field_type in (fields or {}).items():
        _check_choice(f"fields[{field!r}]", field_type, _FIELD_TYPE)
    check_numbers(model_version=model_version, hidden_dim=hidden_dim, k_max=k_max, partitions=partitions)
    return control_pb2.CreateCollectionRequest(
        name=name,
        kind=_KIND[kind],
        versioning=_VERSIONING[versioning],
        model=vector_pb2.ModelVersion(name=model, version=model_version, fingerprint=fingerprint),
        hidden_dim=hidden_dim,
        k_max=k_max,
        partitions=partitions,
        fields={field: _FIELD_TYPE[field_type] for field, field_type in (fields or {}).items()},
    )


def collection(message: control_pb2.Collection) -> types.Collection:
    """Translate the description of a collection."""
    return types.Collection(
        name=message.name,
        collection_id=message.collection_id,
        kind=_KIND_OF[message.kind],
        versioning=_VERSIONING_OF[message.versioning],
        input_dim=message.input_dim,
        hidden_dim=message.hidden_dim,
        k_max=message.k_max,
        partitions=message.partitions,
        generations=[
            types.Generation(generation.generation, _GENERATION_STATE[generation.state], model_of(generation.model))
            for generation in message.generations
        ],
        fields={field: _FIELD_TYPE_OF[message.fields[field]] for field in sorted(message.fields)},
    )


def collection_description(response: control_pb2.DescribeCollectionResponse) -> types.CollectionDescription:
    """Translate a collection and its state."""
    return types.CollectionDescription(
        collection(response.collection),
        response.documents,
        [
            types.PartitionState(
                state.partition,
                state.lsn,
                state.documents,
                state.index_server,
                state.visible_lsn,
                state.ready,
                state.staleness_seconds,
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


def _check_choice(field: str, value: str, known: Collection[str]) -> None:
    if value not in known:
        raise InvalidRequest(f"{field}: {value!r}, one of {', '.join(known)} is needed")
