"""The one place where errors of the engine become errors that a caller may see."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from services.index.core.errors import (
    CoreError,
    InvalidCode,
    InvalidField,
    InvalidFilter,
    InvalidId,
    InvalidRows,
    InvalidSearch,
    UnknownField,
)
from services.runtime.errors import CorruptRecord, CsrError, InvalidRequest, InvalidVector

IN_REQUEST: Final[Mapping[type[CoreError], type[CsrError]]] = {
    InvalidCode: InvalidVector,
    InvalidFilter: InvalidRequest,
    InvalidId: InvalidRequest,
    InvalidSearch: InvalidRequest,
    UnknownField: InvalidRequest,
}
"""What a caller did wrong."""

IN_LOG: Final[Mapping[type[CoreError], type[CsrError]]] = {
    InvalidCode: CorruptRecord,
    InvalidField: CorruptRecord,
    InvalidId: CorruptRecord,
    InvalidRows: CorruptRecord,
}
"""What no writer of ours could have stored."""


@contextmanager
def core_errors(table: Mapping[type[CoreError], type[CsrError]], place: str) -> Iterator[None]:
    """Turn errors of the engine inside the block into ours; `place` begins their text.

    Errors that the table lacks are bugs of ours and pass unchanged.
    """
    try:
        yield
    except CoreError as error:
        kind = table.get(type(error))
        if kind is None:
            raise
        raise kind(f"{place}: {error}") from error
