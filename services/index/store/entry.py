"""Bytes of documents, records and log entries; pure functions, no Redis.

All of it is recomputed in Python from what the functions wrote. Layouts (integers big-endian unless said otherwise;
`‖` is concatenation; hash() is SHA-1):

    body       u8 format (1) · u8 codes · u16 embedding dim (0: none) · u32 payload bytes
               · embedding, little-endian float16 · payload
               · per code, by generation ascending: u32 generation · u16 length · latents · weights,
                 each `length` little-endian u16
    content    u8 kind (0: document, 1: tombstone) · 8 bytes input digest · body (empty for a tombstone);
               what a writer hands over may also be of kind 2: instead of the body, a payload to put into the stored one
    record     u64 version · 8 bytes checksum · content            the value in the hash of documents
    checksum   first 8 bytes of hash(u64 version ‖ id ‖ content)
    log entry  stream id `<lsn>-0`, fields: i = id · r = record · p = previous, u64: the version that was live before,
               0 for none · c = chain, 20 bytes
    chain      hash(chain before ‖ u64 lsn ‖ u64 version ‖ u64 previous ‖ checksum ‖ id); 20 zero bytes before LSN 1
    digest     of a document: hash(id ‖ u64 version); of a state: XOR of the digests of its live documents

The chain covers bodies through their checksums, so extending it costs one short hash. Because entries say what they
replace, a reader knows count and state digest without remembering versions.
"""

import hashlib
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.runtime.errors import CorruptRecord, WrongState

BODY_FORMAT: Final = 1
DIGEST_BYTES: Final = 20
GENESIS_CHAIN: Final = bytes(DIGEST_BYTES)
"""Chain of a log without entries."""
EMPTY_STATE_DIGEST: Final = bytes(DIGEST_BYTES)
"""State digest of a partition without documents."""

_DOCUMENT: Final = 0
_TOMBSTONE: Final = 1
_PAYLOAD: Final = 2
_BODY_HEADER: Final = struct.Struct(">BBHI")
_CODE_HEADER: Final = struct.Struct(">IH")
_U64: Final = struct.Struct(">Q")
_RECORD_HEADER: Final = struct.Struct(">Q8sB8s")
_CHECKSUM_BYTES: Final = 8
_VERSION_BYTES: Final = 8
_CONTENT_OFFSET: Final = _VERSION_BYTES + _CHECKSUM_BYTES


@dataclass(frozen=True, slots=True, eq=False)
class QuantisedCode:
    """A code as it is stored: by weight descending, then latent ascending.

    Attributes:
        latents: uint16 [n], unique.
        weights: uint16 [n], round(65535 * weight) of the L2-normalised code, never 0.
    """

    latents: NDArray[np.uint16]
    weights: NDArray[np.uint16]


@dataclass(frozen=True, slots=True, eq=False)
class DocumentBody:
    """What is stored of a live document beside its id and version.

    Attributes:
        embedding: float16 [input_dim]; None in collections of kind codes.
        payload: JSON object in UTF-8, or empty.
        codes: One code per generation that was live when the document was written.
    """

    embedding: NDArray[np.float16] | None = None
    payload: bytes = b""
    codes: Mapping[int, QuantisedCode] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """A record of the hash of documents whose checksum was right.

    Attributes:
        version: 1..2^53-1.
        deleted: A tombstone: the body is empty.
        input_digest: 8 bytes that tell whether a repeat of this version is the same input.
        body: Encoded; see decode_body.
    """

    version: int
    deleted: bool
    input_digest: bytes
    body: bytes

    @classmethod
    def parse(cls, id: str, raw: bytes) -> "StoredRecord":
        """Return the record of a document.

        Raises:
            CorruptRecord: the bytes are not those that were stored under this id.
        """
        version, _, deleted, digest, body = _parse_record(id, raw)
        return cls(version, deleted, digest, body)


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One entry of a partition's log whose checksum was right; its chain is for the reader of the log to check.

    Attributes:
        lsn: Position in the log; the first is 1 and there are no gaps.
        id: Document id.
        version: 1..2^53-1.
        deleted: A tombstone: the body is empty.
        input_digest: As in StoredRecord.
        body: Encoded; see decode_body.
        checksum: 8 bytes.
        chain: 20 bytes, over this entry and all before it.
        previous: Version that was live before; 0 when there was none.
    """

    lsn: int
    id: str
    version: int
    deleted: bool
    input_digest: bytes
    body: bytes
    checksum: bytes
    chain: bytes
    previous: int = 0

    @classmethod
    def parse(cls, stream_id: bytes, fields: Mapping[bytes, bytes]) -> "LogEntry":
        """Return the entry behind an item of the stream.

        Raises:
            CorruptRecord: a field is missing or the bytes are not those that were stored.
        """
        try:
            lsn = int(stream_id.removesuffix(b"-0"))
            id, raw, chain = fields[b"i"].decode(), fields[b"r"], fields[b"c"]
            (previous,) = _U64.unpack(fields[b"p"])
        except (KeyError, ValueError, struct.error) as error:
            raise CorruptRecord(f"log entry {stream_id!r}: {error!r}") from None
        version, checksum, deleted, digest, body = _parse_record(id, raw)
        return cls(lsn, id, version, deleted, digest, body, checksum, chain, previous)

    @property
    def raw_record(self) -> bytes:
        """The record that this entry left in the hash of documents."""
        kind = _TOMBSTONE if self.deleted else _DOCUMENT
        return _RECORD_HEADER.pack(self.version, self.checksum, kind, self.input_digest) + self.body


def encode_body(body: DocumentBody) -> bytes:
    """Return the bytes of a body. Equal bodies have equal bytes."""
    embedding = b"" if body.embedding is None else body.embedding.astype("<f2", copy=False).tobytes()
    parts = [
        _BODY_HEADER.pack(BODY_FORMAT, len(body.codes), len(embedding) // 2, len(body.payload)),
        embedding,
        body.payload,
    ]
    for generation in sorted(body.codes):
        code = body.codes[generation]
        parts.append(_CODE_HEADER.pack(generation, len(code.latents)))
        parts.append(code.latents.astype("<u2", copy=False).tobytes())
        parts.append(code.weights.astype("<u2", copy=False).tobytes())
    return b"".join(parts)


def decode_body(raw: bytes) -> DocumentBody:
    """Return the body behind its bytes; arrays are read-only views of them.

    Raises:
        WrongState: a newer release of this system wrote the body.
        CorruptRecord: the bytes are no body.
    """
    if raw and raw[0] > BODY_FORMAT:
        raise WrongState(f"body format {raw[0]}: this release reads up to {BODY_FORMAT}; upgrade it")
    try:
        _, count, dim, payload_bytes = _BODY_HEADER.unpack_from(raw)
        at = _BODY_HEADER.size
        embedding = np.frombuffer(raw, "<f2", dim, at) if dim else None
        at += 2 * dim
        payload = raw[at : at + payload_bytes]
        at += payload_bytes
        codes: dict[int, QuantisedCode] = {}
        for _ in range(count):
            generation, length = _CODE_HEADER.unpack_from(raw, at)
            at += _CODE_HEADER.size
            latents = np.frombuffer(raw, "<u2", length, at)
            weights = np.frombuffer(raw, "<u2", length, at + 2 * length)
            codes[generation] = QuantisedCode(latents, weights)
            at += 4 * length
    except (struct.error, ValueError) as error:
        raise CorruptRecord(f"document body: {error}") from None
    if at != len(raw):
        raise CorruptRecord(f"document body: {len(raw)} bytes where its header says {at}")
    return DocumentBody(embedding, payload, codes)


def encode_content(deleted: bool, input_digest: bytes, body: bytes) -> bytes:
    """Return what a writer hands to the function, which completes it with version and checksum."""
    return bytes((_TOMBSTONE if deleted else _DOCUMENT,)) + input_digest + body


def encode_payload(input_digest: bytes, payload: bytes) -> bytes:
    """Return what a writer hands to the function to replace nothing but a document's payload."""
    return bytes((_PAYLOAD,)) + input_digest + payload


def input_digest(*parts: bytes) -> bytes:
    """Return 8 bytes that identify the input of a write: its vector and payload as the client sent them.

    Codes do not belong here: the same input encodes differently after a promotion.
    """
    digest = hashlib.sha1(usedforsecurity=False)
    for part in parts:
        digest.update(struct.pack(">I", len(part)))
        digest.update(part)
    return digest.digest()[:8]


def checksum_of(version: int, id: str, content: bytes) -> bytes:
    """Return the checksum of a record, 8 bytes."""
    return _sha1(struct.pack(">Q", version) + id.encode() + content)[:_CHECKSUM_BYTES]


def chain_after(chain: bytes, entry: LogEntry) -> bytes:
    """Return the chain that an entry must carry when it follows `chain`, 20 bytes."""
    numbers = struct.pack(">QQQ", entry.lsn, entry.version, entry.previous)
    return _sha1(chain + numbers + entry.checksum + entry.id.encode())


def document_digest(id: str, version: int) -> bytes:
    """Return what a live document adds to the state digest, 20 bytes."""
    return _sha1(id.encode() + struct.pack(">Q", version))


def combine_digests(digests: Iterable[bytes]) -> bytes:
    """Return the XOR of digests: adding one twice removes it, and order does not matter."""
    total = 0
    for digest in digests:
        total ^= int.from_bytes(digest)
    return total.to_bytes(DIGEST_BYTES)


def _parse_record(id: str, raw: bytes) -> tuple[int, bytes, bool, bytes, bytes]:
    """Return version, checksum, deleted, input digest and body."""
    if len(raw) < _RECORD_HEADER.size:
        raise CorruptRecord(f"document {id!r}: {len(raw)} bytes are no record")
    version, checksum, flags, digest = _RECORD_HEADER.unpack_from(raw)
    if checksum != checksum_of(version, id, raw[_CONTENT_OFFSET:]):
        raise CorruptRecord(f"document {id!r}, version {version}: checksum differs")
    return version, checksum, bool(flags & _TOMBSTONE), digest, raw[_RECORD_HEADER.size :]


def _sha1(data: bytes) -> bytes:
    return hashlib.sha1(data, usedforsecurity=False).digest()
