from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from services.runtime import errors
from services.runtime.errors import ERROR_METADATA_KEY, STATUS, CsrError, error_from_rpc, status_of

KINDS = CsrError.__subclasses__()

EXPECTED = {
    "INVALID_ARGUMENT": {"InvalidVector", "InvalidRequest", "LimitExceeded"},
    "NOT_FOUND": {"UnknownCollection", "UnknownDocument", "UnknownVersion"},
    "FAILED_PRECONDITION": {"FingerprintMismatch", "WrongState", "WrongKind"},
    "ABORTED": {"VersionConflict", "AliasMoved"},
    "ALREADY_EXISTS": {"CollectionExists"},
    "RESOURCE_EXHAUSTED": {"Overloaded", "StoreFull"},
    "UNAVAILABLE": {
        "PartitionUnavailable",
        "WrongOwner",
        "StoreUnavailable",
        "EncoderUnavailable",
        "RegistryUnavailable",
    },
    "DEADLINE_EXCEEDED": {"DeadlineSpent"},
    "DATA_LOSS": {"CorruptRecord"},
    "UNAUTHENTICATED": {"Unauthenticated"},
    "PERMISSION_DENIED": {"PermissionDenied"},
    "INTERNAL": {"InternalError"},
}


def test_the_table_is_the_published_one() -> None:
    """Clients in other languages decide by status code what to do."""
    assert set(KINDS) == set(STATUS)
    actual: dict[str, set[str]] = {}
    for kind, code in STATUS.items():
        actual.setdefault(code.name, set()).add(kind.__name__)
    assert actual == EXPECTED


def test_the_drawing_names_every_error() -> None:
    """The page that people read would lack an error that exists."""
    assert errors.__doc__ is not None
    assert all(kind.__name__ in errors.__doc__ for kind in KINDS)


class Raising(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Aborts with the error that the method is named after; `bare/CODE` aborts without naming an error."""

    def service(self, details: Any) -> Any:
        """Return a handler for any method."""
        service, _, name = details.method[1:].partition("/")

        def abort(request: bytes, context: Any) -> bytes:
            if service == "bare":
                context.abort(grpc.StatusCode[name], "bare")
            error = getattr(errors, name)("text")
            context.set_trailing_metadata(((ERROR_METADATA_KEY, name),))
            context.abort(status_of(error), str(error))
            return b""

        return grpc.unary_unary_rpc_method_handler(abort)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A server that raises whatever it is asked for."""
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((Raising(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None)


@pytest.mark.parametrize("kind", KINDS)
async def test_every_error_crosses_the_wire(address: str, kind: type[CsrError]) -> None:
    """An error would arrive as another one, and callers would do the wrong thing about it."""
    method = f"/named/{kind.__name__}"
    with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError) as raised:
        channel.unary_unary(method)(b"")
    assert raised.value.code() is STATUS[kind]  # type: ignore[attr-defined]
    blocking = error_from_rpc(raised.value)
    assert (type(blocking), str(blocking)) == (kind, "text")
    async with grpc.aio.insecure_channel(address) as aio_channel:
        with pytest.raises(grpc.aio.AioRpcError) as aio_raised:
            await aio_channel.unary_unary(method)(b"")
    asynchronous = error_from_rpc(aio_raised.value)
    assert (type(asynchronous), str(asynchronous)) == (kind, "text")


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
def test_errors_without_a_name_keep_their_status(address: str, code: grpc.StatusCode) -> None:
    """A dead connection or a proxy's error would be taken for a bug."""
    with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError) as raised:
        channel.unary_unary(f"/bare/{code.name}")(b"")
    meant = error_from_rpc(raised.value)
    expected = code if code in STATUS.values() else grpc.StatusCode.INTERNAL
    assert status_of(meant) is expected


def test_a_local_failure_is_internal() -> None:
    """An error before anything was sent would break the error handling itself."""
    assert isinstance(error_from_rpc(grpc.RpcError("no channel")), errors.InternalError)


def test_a_reworded_error_keeps_what_callers_act_on() -> None:
    """Passing an error on would lose the delay after which to try again."""
    reworded = errors.reworded(errors.Overloaded("full", retry_seconds=7.5), "index-0: full")
    assert isinstance(reworded, errors.Overloaded)
    assert (str(reworded), reworded.retry_seconds) == ("index-0: full", 7.5)
    assert type(errors.reworded(errors.WrongOwner("a"), "b")) is errors.WrongOwner
