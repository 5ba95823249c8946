"""What a request to create a collection asks for, and how collections are described. Pure."""

import re
from collections.abc import Mapping
from typing import Final, Literal

from csr.v1 import control_pb2, encoder_pb2, filter_pb2, vector_pb2
from services.index.core.fields import FieldType
from services.index.store.catalog import CollectionRecord, GenerationRecord, new_collection_id
from services.router.validation import check_number, check_size
from services.runtime import limits
from services.runtime.errors import FingerprintMismatch, InvalidRequest, LimitExceeded, UnknownVersion

CHAMPION: Final = "champion"
"""Alias of the version that new collections of kind dense take when none is named."""

_FINGERPRINT: Final = r"[0-9a-f]{32}"
_FIRST_GENERATION: Final = 1
_KIND: Final = {"dense": control_pb2.COLLECTION_KIND_DENSE, "codes": control_pb2.COLLECTION_KIND_CODES}
_VERSIONING: Final = {"assigned": control_pb2.VERSIONING_ASSIGNED, "client": control_pb2.VERSIONING_CLIENT}
_STATE: Final = {
    "building": control_pb2.GENERATION_STATE_BUILDING,
    "active": control_pb2.GENERATION_STATE_ACTIVE,
    "retained": control_pb2.GENERATION_STATE_RETAINED,
}
_FIELD_TYPE: Final[Mapping[filter_pb2.FieldType.ValueType, FieldType]] = {
    filter_pb2.FIELD_TYPE_KEYWORD: "keyword",
    filter_pb2.FIELD_TYPE_INT: "int",
    filter_pb2.FIELD_TYPE_FLOAT: "float",
    filter_pb2.FIELD_TYPE_BOOL: "bool",
    filter_pb2.FIELD_TYPE_KEYWORDS: "keywords",
}
_FIELD_TYPE_ON_WIRE: Final = {kind: number for number, kind in _FIELD_TYPE.items()}


def check_create(request: control_pb2.CreateCollectionRequest) -> None:
    """Check what can be checked before the model is known.

    Raises:
        InvalidRequest, LimitExceeded: naming the field and the limit.
    """
    if not re.fullmatch(limits.COLLECTION_NAME_PATTERN, request.name):
        raise InvalidRequest(
            f"name: {request.name[:80]!r}, 1..64 characters of a-z, 0-9, '-' and '_' are needed, the first a letter"
        )
    if request.kind not in _KIND.values():
        raise InvalidRequest("kind: COLLECTION_KIND_DENSE or COLLECTION_KIND_CODES is needed")
    if request.versioning not in (control_pb2.VERSIONING_UNSPECIFIED, *_VERSIONING.values()):
        raise InvalidRequest("versioning: VERSIONING_ASSIGNED or VERSIONING_CLIENT is needed")
    if request.partitions:
        check_number("partitions", request.partitions, limits.PARTITIONS_MAX)
    if request.k_max:
        check_number("k_max", request.k_max, limits.K_DOCS_MAX)
    check_size("model.name", request.model.name, limits.MODEL_NAME_BYTES_MAX)
    _check_fields(request.fields)
    if request.kind == control_pb2.COLLECTION_KIND_DENSE:
        if request.hidden_dim:
            raise InvalidRequest("hidden_dim: the model of a collection of kind dense says, leave it out")
    else:
        _check_create_codes(request)


def model_ref(request: control_pb2.CreateCollectionRequest) -> encoder_pb2.ModelRef:
    """Return what to ask the encoder about: the version in the request, else the champion."""
    if request.model.version:
        return encoder_pb2.ModelRef(name=request.model.name, version=request.model.version)
    return encoder_pb2.ModelRef(name=request.model.name, alias=CHAMPION)


def new_dense_record(
    request: control_pb2.CreateCollectionRequest, described: encoder_pb2.GetModelResponse
) -> CollectionRecord:
    """Return the record of a new collection of kind dense.

    Raises:
        FingerprintMismatch: the request names another fingerprint than that of the version.
        LimitExceeded: k_max is more than the model's.
        UnknownVersion: the model has dimensions that this release cannot serve.
    """
    model = described.model
    if request.model.fingerprint not in ("", model.fingerprint):
        raise FingerprintMismatch(
            f"model.fingerprint: {request.model.fingerprint[:40]}, version {model.version} of {model.name!r} "
            f"has {model.fingerprint}"
        )
    if described.hidden_dim > limits.HIDDEN_DIM_MAX or described.input_dim > limits.INPUT_DIM_MAX:
        raise UnknownVersion(
            f"model: {model.name!r} version {model.version} takes {described.input_dim} dimensions to "
            f"{described.hidden_dim} latents, at most {limits.INPUT_DIM_MAX} and {limits.HIDDEN_DIM_MAX} are served"
        )
    if request.k_max > described.k_max:
        raise LimitExceeded(f"k_max: {request.k_max}, the model has {described.k_max}")
    k_max = request.k_max or min(described.k_max, limits.K_DOCS_MAX)
    return _new_record(request, "dense", model, described.input_dim, described.hidden_dim, k_max)


def new_codes_record(request: control_pb2.CreateCollectionRequest) -> CollectionRecord:
    """Return the record of a new collection of kind codes."""
    return _new_record(request, "codes", request.model, 0, request.hidden_dim, request.k_max)


def collection_message(record: CollectionRecord) -> control_pb2.Collection:
    """Return the public description of a collection."""
    return control_pb2.Collection(
        name=record.name,
        collection_id=record.collection_id,
        kind=_KIND[record.kind],
        versioning=_VERSIONING[record.versioning],
        input_dim=record.input_dim,
        hidden_dim=record.active.hidden_dim,
        k_max=record.k_max,
        partitions=record.partitions,
        generations=[
            control_pb2.Generation(
                generation=generation.generation,
                state=_STATE[generation.state],
                model=vector_pb2.ModelVersion(
                    name=generation.model_name, version=generation.model_version, fingerprint=generation.fingerprint
                ),
            )
            for generation in record.generations
        ],
        fields={name: _FIELD_TYPE_ON_WIRE[kind] for name, kind in record.fields.items()},
    )


def _check_fields(fields: Mapping[str, filter_pb2.FieldType.ValueType]) -> None:
    if len(fields) > limits.FIELDS_MAX:
        raise LimitExceeded(f"fields: {len(fields)}, at most {limits.FIELDS_MAX} are allowed")
    for name, kind in sorted(fields.items()):
        if not re.fullmatch(limits.FIELD_NAME_PATTERN, name):
            raise InvalidRequest(
                f"fields: {name[:80]!r}, 1..64 characters of a-z, A-Z, 0-9 and '_' are needed, the first no digit"
            )
        if kind not in _FIELD_TYPE:
            known = ", ".join(map(filter_pb2.FieldType.Name, _FIELD_TYPE))
            raise InvalidRequest(f"fields[{name}]: type {kind}, one of {known} is needed")


def _check_create_codes(request: control_pb2.CreateCollectionRequest) -> None:
    if not re.fullmatch(_FINGERPRINT, request.model.fingerprint):
        raise InvalidRequest(
            f"model.fingerprint: {request.model.fingerprint[:40]!r}, 32 lower-case hex digits are needed for kind codes"
        )
    check_number("hidden_dim", request.hidden_dim, limits.HIDDEN_DIM_MAX)
    check_number("k_max", request.k_max, limits.K_DOCS_MAX)
    if request.k_max > request.hidden_dim:
        raise LimitExceeded(f"k_max: {request.k_max}, there are {request.hidden_dim} latents")


def _new_record(
    request: control_pb2.CreateCollectionRequest,
    kind: Literal["dense", "codes"],
    model: vector_pb2.ModelVersion,
    input_dim: int,
    hidden_dim: int,
    k_max: int,
) -> CollectionRecord:
    generation = GenerationRecord(_FIRST_GENERATION, "active", model.name, model.version, model.fingerprint, hidden_dim)
    return CollectionRecord(
        name=request.name,
        collection_id=new_collection_id(),
        kind=kind,
        versioning="client" if request.versioning == control_pb2.VERSIONING_CLIENT else "assigned",
        input_dim=input_dim,
        k_max=k_max,
        partitions=request.partitions or limits.PARTITIONS_DEFAULT,
        generations=(generation,),
        fields={name: _FIELD_TYPE[kind] for name, kind in sorted(request.fields.items())},
    )
