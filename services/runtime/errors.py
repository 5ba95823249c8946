"""Domain errors and the one table that turns them into gRPC status codes and back.

CsrError
├── InvalidVector, InvalidRequest, LimitExceeded            INVALID_ARGUMENT     fix the request
├── UnknownCollection, UnknownDocument, UnknownVersion      NOT_FOUND            stop
├── FingerprintMismatch, WrongState, WrongKind              FAILED_PRECONDITION  change the state first
├── VersionConflict, AliasMoved                             ABORTED              read again, then retry
├── CollectionExists                                        ALREADY_EXISTS
├── Overloaded, StoreFull                                   RESOURCE_EXHAUSTED   wait, then retry
├── PartitionUnavailable, WrongOwner, StoreUnavailable,
│   EncoderUnavailable, RegistryUnavailable                 UNAVAILABLE          retry with back-off
├── DeadlineSpent                                           DEADLINE_EXCEEDED
├── CorruptRecord                                           DATA_LOSS            page someone
├── Unauthenticated                                         UNAUTHENTICATED
├── PermissionDenied                                        PERMISSION_DENIED
└── InternalError                                           INTERNAL             report the error id

Any other exception leaves a server as INTERNAL with an error id and no internals.
"""

from collections.abc import Mapping
from typing import Final

import grpc

ERROR_METADATA_KEY: Final = "csr-error"
"""Trailing metadata that carries the name of the domain error."""
RETRY_METADATA_KEY: Final = "grpc-retry-pushback-ms"
"""Trailing metadata that says when to try again, as gRPC's own retry policies understand it."""


class CsrError(Exception):
    """An error that a caller may see; its text names the field and the limit."""


class InvalidVector(CsrError):
    """A vector or code that no model could have made."""


class InvalidRequest(CsrError):
    """A request that contradicts itself or lacks something."""


class LimitExceeded(CsrError):
    """More than a limit of services.runtime.limits."""


class UnknownCollection(CsrError):
    """No collection of that name."""


class UnknownDocument(CsrError):
    """No document of that id."""


class UnknownVersion(CsrError):
    """No such model, version or alias in the registry."""


class FingerprintMismatch(CsrError):
    """A code of another model: never stored, never scored."""


class WrongState(CsrError):
    """The object is not in a state that allows this."""


class WrongKind(CsrError):
    """The collection is of the other kind (dense, codes)."""


class VersionConflict(CsrError):
    """The same version with another input."""


class AliasMoved(CsrError):
    """An alias or record changed under the caller."""


class CollectionExists(CsrError):
    """A collection of that name is there already."""


class Overloaded(CsrError):
    """Queues are full; retry later.

    Attributes:
        retry_seconds: When there is likely to be room again.
    """

    def __init__(self, text: str = "", retry_seconds: float = 1.0) -> None:
        super().__init__(text)
        self.retry_seconds = retry_seconds


class StoreFull(CsrError):
    """Redis refuses writes for lack of memory."""


class PartitionUnavailable(CsrError):
    """No ready index server answers for a partition."""


class WrongOwner(CsrError):
    """An index server was asked for a partition that it does not hold."""


class StoreUnavailable(CsrError):
    """Redis cannot be reached; whether a write happened is unknown."""


class EncoderUnavailable(CsrError):
    """No encoder replica can be reached."""


class RegistryUnavailable(CsrError):
    """MLflow cannot be reached."""


class DeadlineSpent(CsrError):
    """The caller's deadline passed before the work was done."""


class CorruptRecord(CsrError):
    """A stored record fails its checksum."""


class Unauthenticated(CsrError):
    """No valid key."""


class PermissionDenied(CsrError):
    """The key does not allow this."""


class InternalError(CsrError):
    """A bug on the server; the text carries the error id to look up in its log."""


STATUS: Final[Mapping[type[CsrError], grpc.StatusCode]] = {
    InvalidVector: grpc.StatusCode.INVALID_ARGUMENT,
    InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    LimitExceeded: grpc.StatusCode.INVALID_ARGUMENT,
    UnknownCollection: grpc.StatusCode.NOT_FOUND,
    UnknownDocument: grpc.StatusCode.NOT_FOUND,
    UnknownVersion: grpc.StatusCode.NOT_FOUND,
    FingerprintMismatch: grpc.StatusCode.FAILED_PRECONDITION,
    WrongState: grpc.StatusCode.FAILED_PRECONDITION,
    WrongKind: grpc.StatusCode.FAILED_PRECONDITION,
    VersionConflict: grpc.StatusCode.ABORTED,
    AliasMoved: grpc.StatusCode.ABORTED,
    CollectionExists: grpc.StatusCode.ALREADY_EXISTS,
    Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    StoreFull: grpc.StatusCode.RESOURCE_EXHAUSTED,
    PartitionUnavailable: grpc.StatusCode.UNAVAILABLE,
    WrongOwner: grpc.StatusCode.UNAVAILABLE,
    StoreUnavailable: grpc.StatusCode.UNAVAILABLE,
    EncoderUnavailable: grpc.StatusCode.UNAVAILABLE,
    RegistryUnavailable: grpc.StatusCode.UNAVAILABLE,
    DeadlineSpent: grpc.StatusCode.DEADLINE_EXCEEDED,
    CorruptRecord: grpc.StatusCode.DATA_LOSS,
    Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    InternalError: grpc.StatusCode.INTERNAL,
}

_TOO_LARGE: Final = "message larger than max"
"""In the text of gRPC's own RESOURCE_EXHAUSTED when a message is beyond its limit: waiting does not help."""
_BY_NAME: Final = {kind.__name__: kind for kind in STATUS}
_BY_CODE: Final[Mapping[grpc.StatusCode, type[CsrError]]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.NOT_FOUND: UnknownCollection,
    grpc.StatusCode.FAILED_PRECONDITION: WrongState,
    grpc.StatusCode.ABORTED: AliasMoved,
    grpc.StatusCode.ALREADY_EXISTS: CollectionExists,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    grpc.StatusCode.UNAVAILABLE: PartitionUnavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineSpent,
    grpc.StatusCode.DATA_LOSS: CorruptRecord,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
}


def status_of(error: CsrError) -> grpc.StatusCode:
    """Return the status code that a server answers with."""
    return STATUS[type(error)]


def error_metadata(error: CsrError) -> tuple[tuple[str, str], ...]:
    """Return the trailing metadata that a server sends along with an error."""
    name = (ERROR_METADATA_KEY, type(error).__name__)
    if isinstance(error, Overloaded):
        return name, (RETRY_METADATA_KEY, str(round(1_000 * error.retry_seconds)))
    return (name,)


def reworded(error: CsrError, text: str) -> CsrError:
    """Return an error of the same type with another text; an Overloaded one keeps its delay."""
    copy = type(error)(text)
    if isinstance(error, Overloaded) and isinstance(copy, Overloaded):
        copy.retry_seconds = error.retry_seconds
    return copy


def error_from_rpc(error: grpc.RpcError) -> CsrError:
    """Return the domain error behind a failed call: by name when the server sent it, else by status code."""
    if not isinstance(error, grpc.Call | grpc.aio.AioRpcError):
        return InternalError(str(error))
    metadata = {str(key): str(value) for key, value in error.trailing_metadata() or ()}
    details = error.details() or error.code().name
    unnamed = LimitExceeded if _TOO_LARGE in details else _BY_CODE.get(error.code(), InternalError)
    meant = _BY_NAME.get(metadata.get(ERROR_METADATA_KEY, ""), unnamed)(details)
    pushback = metadata.get(RETRY_METADATA_KEY, "")
    if isinstance(meant, Overloaded) and pushback.isdecimal():
        meant.retry_seconds = int(pushback) / 1_000
    return meant
