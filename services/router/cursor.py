"""Cursors of Scroll: where the next page begins. Opaque to callers, checked like anything else they send. Pure."""

import base64
import binascii
import re
import struct
import zlib
from dataclasses import dataclass
from typing import Final

from services.index.store.catalog import CollectionRecord, GenerationRecord
from services.runtime import limits
from services.runtime.errors import InvalidRequest, WrongState

CURSOR_FORMAT: Final = 1
_HEADER: Final = struct.Struct(">B8sI")
"""Format, collection id, generation; the last id follows, then the CRC-32 of it all, for cursors that were cut."""
_CRC_BYTES: Final = 4
_CHARACTERS_MAX: Final = 4 * -(-(_HEADER.size + limits.ID_BYTES_MAX + _CRC_BYTES) // 3)


@dataclass(frozen=True)
class Cursor:
    """The last document of a page, in one generation of one collection."""

    collection_id: str
    generation: int
    last_id: str

    def encode(self) -> str:
        """Return the cursor as text: base64url."""
        header = _HEADER.pack(CURSOR_FORMAT, bytes.fromhex(self.collection_id), self.generation)
        raw = header + self.last_id.encode()
        return base64.urlsafe_b64encode(raw + _crc(raw)).decode()

    @classmethod
    def decode(cls, text: str) -> "Cursor":
        """Return the cursor behind its text.

        Raises:
            InvalidRequest: the text is none that `encode` made, or of a later release.
        """
        if len(text) > _CHARACTERS_MAX or not re.fullmatch(r"[A-Za-z0-9_-]*={0,2}", text):
            raise InvalidRequest("cursor: not one that a scroll answered")
        try:
            raw = base64.urlsafe_b64decode(text)
            layout, collection_id, generation = _HEADER.unpack_from(raw)
            last_id = raw[_HEADER.size : -_CRC_BYTES].decode()
        except (binascii.Error, struct.error, UnicodeDecodeError):
            raise InvalidRequest("cursor: not one that a scroll answered") from None
        if layout != CURSOR_FORMAT:
            raise InvalidRequest(f"cursor: format {layout}, this release reads {CURSOR_FORMAT}; begin again")
        cursor = cls(collection_id.hex(), generation, last_id)
        # Made anew it is the same text: of canonical base64 and with the right CRC.
        if not 1 <= len(last_id.encode()) <= limits.ID_BYTES_MAX or cursor.encode() != text:
            raise InvalidRequest("cursor: not one that a scroll answered")
        return cursor


def _crc(raw: bytes) -> bytes:
    return zlib.crc32(raw).to_bytes(_CRC_BYTES)


def scrolled_generation(text: str, record: CollectionRecord) -> tuple[GenerationRecord, str]:
    """Return the generation to scroll and the id to begin behind; the active one and "" without a cursor.

    Raises:
        InvalidRequest: the cursor is none.
        WrongState: it belongs to another collection, or to a generation that is gone.
    """
    if not text:
        return record.active, ""
    cursor = Cursor.decode(text)
    if cursor.collection_id != record.collection_id:
        raise WrongState(
            f"cursor: of collection {cursor.collection_id}, collection {record.name!r} is {record.collection_id} now; "
            "begin again"
        )
    for generation in record.generations:
        if generation.generation == cursor.generation:
            return generation, cursor.last_id
    raise WrongState(f"cursor: generation {cursor.generation} of {record.name!r} is gone; begin again")
