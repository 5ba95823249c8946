"""Requests that nobody should send, with the status codes that they may be answered by. Pure; from one random source.

Two sorts. A spoilt request is valid but for one known defect, and exactly one code is right. A mutated one is a valid
request whose bytes were changed at random: it may have become anything, so any code that blames the caller is right,
and OK for a read. Writes are only mutated on their way to a collection that does not exist, so none may succeed.
"""

import random
import string
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import grpc
from google.protobuf.message import Message

from csr.v1 import filter_pb2, search_pb2, vector_pb2
from services.runtime import limits

HIDDEN_DIM: Final = 64
K_MAX: Final = 8
FINGERPRINT: Final = "ef" * 16
NOWHERE: Final = "nowhere"
"""A collection that does not exist."""

_INVALID: Final = frozenset({grpc.StatusCode.INVALID_ARGUMENT})
_NOT_FOUND: Final = frozenset({grpc.StatusCode.NOT_FOUND})
_WRONG: Final = frozenset({grpc.StatusCode.FAILED_PRECONDITION})
_TOO_LARGE: Final = frozenset({grpc.StatusCode.RESOURCE_EXHAUSTED})
BLAMES_THE_CALLER: Final = _INVALID | _NOT_FOUND | _WRONG | {grpc.StatusCode.ALREADY_EXISTS}

Codes = frozenset[grpc.StatusCode]


@dataclass(frozen=True)
class Hostile:
    """One request as bytes, and what may be answered.

    Attributes:
        what: The defect, for reports.
        method: Full name of the method.
    """

    what: str
    method: str
    request: bytes
    allowed: Codes


class Requests:
    """Makes hostile requests to one collection of kind codes that declares the field `year` as an int."""

    def __init__(self, collection: str, rng: random.Random) -> None:
        self._collection = collection
        self._rng = rng
        self._reads: list[tuple[str, Callable[[], Message]]] = [
            ("Search", self._search),
            ("Get", lambda: search_pb2.GetRequest(collection=collection, ids=self._ids(3), include_codes=True)),
            ("Count", lambda: search_pb2.CountRequest(collection=collection, where=self._filter())),
            ("Scroll", lambda: search_pb2.ScrollRequest(collection=collection, limit=5, where=self._filter())),
            ("Explain", self._explain),
        ]
        self._writes: list[tuple[str, Callable[[], Message]]] = [
            ("Upsert", lambda: self._upsert(NOWHERE)),
            ("Delete", lambda: search_pb2.DeleteRequest(collection=NOWHERE, ids=self._ids(3))),
            ("UpdatePayloads", lambda: search_pb2.UpdatePayloadsRequest(collection=NOWHERE, ids=["a"])),
            ("DeleteByFilter", lambda: search_pb2.DeleteByFilterRequest(collection=NOWHERE, where=self._filter())),
        ]

    def spoilt(self) -> Hostile:
        """Return a request with one known defect."""
        request: Message
        if self._rng.random() < 0.5:
            (spoil, allowed), method, request = self._rng.choice(_SEARCH_DEFECTS), "Search", self._search()
        else:
            (spoil, allowed), method, request = self._rng.choice(_UPSERT_DEFECTS), "Upsert", self._upsert()
        what = spoil(request, self._rng)
        return Hostile(what, _path(method), request.SerializeToString(), allowed)

    def mutated(self) -> Hostile:
        """Return a request whose bytes were changed."""
        if self._rng.random() < 0.6:
            method, make = self._rng.choice(self._reads)
            allowed = BLAMES_THE_CALLER | {grpc.StatusCode.OK}
        else:
            method, make = self._rng.choice(self._writes)
            allowed = BLAMES_THE_CALLER
        return Hostile("mutated", _path(method), mutate(make().SerializeToString(), self._rng), allowed)

    def too_large(self, size: int) -> Hostile:
        """Return a request of this many bytes."""
        request = search_pb2.SearchRequest(collection="x" * size)
        allowed = _TOO_LARGE if size > limits.MESSAGE_BYTES_MAX else _INVALID
        return Hostile(f"{size} bytes", _path("Search"), request.SerializeToString(), allowed)

    def _ids(self, count: int) -> list[str]:
        return [f"doc-{self._rng.randrange(100)}-{row}" for row in range(count)]

    def _search(self) -> search_pb2.SearchRequest:
        return search_pb2.SearchRequest(
            collection=self._collection, codes=code_batch(self._rng, self._rng.randint(1, 4)), top_n=10
        )

    def _upsert(self, collection: str = "") -> search_pb2.UpsertRequest:
        count = self._rng.randint(1, 4)
        return search_pb2.UpsertRequest(
            collection=collection or self._collection, ids=self._ids(count), codes=code_batch(self._rng, count)
        )

    def _explain(self) -> search_pb2.ExplainRequest:
        return search_pb2.ExplainRequest(collection=self._collection, codes=code_batch(self._rng, 1), ids=self._ids(2))

    def _filter(self) -> filter_pb2.Filter:
        year = filter_pb2.Equals(field="year", value=filter_pb2.FieldValue(int=self._rng.randrange(2_000)))
        within = filter_pb2.Range(field="year", gte=float(self._rng.randrange(100)))
        both = filter_pb2.FilterList(filters=[filter_pb2.Filter(equals=year), filter_pb2.Filter(range=within)])
        return negated(filter_pb2.Filter(**{"and": both}))  # type: ignore[arg-type]


def code_batch(rng: random.Random, count: int, weights: Sequence[float] | None = None) -> vector_pb2.CodeBatch:
    """Return valid codes; with `weights`, all with these."""
    rows = [rng.sample(range(HIDDEN_DIM), K_MAX) for _ in range(count)]
    values = weights or [float(K_MAX - place) for place in range(K_MAX)]
    return vector_pb2.CodeBatch(
        count=count,
        lengths=struct.pack(f"<{count}H", *[K_MAX] * count),
        latents=b"".join(struct.pack(f"<{K_MAX}H", *row) for row in rows),
        weights=struct.pack(f"<{K_MAX}f", *values) * count,
        fingerprint=FINGERPRINT,
    )


def negated(where: filter_pb2.Filter) -> filter_pb2.Filter:
    """Return the opposite of a filter."""
    return filter_pb2.Filter(**{"not": where})  # type: ignore[arg-type]


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Change some bytes: flip, cut, repeat, insert, or write the largest numbers."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        begin = rng.randrange(len(changed) + 1)
        end = min(len(changed), begin + rng.randrange(1, 9))
        match rng.randrange(6):
            case 0 if begin < len(changed):
                changed[begin] ^= 1 << rng.randrange(8)
            case 1:
                del changed[begin:]
            case 2:
                del changed[begin:end]
            case 3:
                changed[begin:begin] = changed[begin:end] * rng.randrange(1, 20)
            case 4:
                changed[begin:begin] = rng.randbytes(rng.randrange(1, 9))
            case _:
                changed[begin:end] = rng.choice((b"\xff" * 9 + b"\x01", b"\x80" * 20, b"\x00" * 8))
    return bytes(changed)


def _path(method: str) -> str:
    return f"/csr.v1.SearchService/{method}"


# Defects: each changes a valid request and names what it did. ----------------------------------------------------


def _bad_weights(request: Any, rng: random.Random) -> str:
    bad = rng.choice((float("nan"), float("inf"), -float("inf"), -1.0, 0.0, -0.0))
    weights = [8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]
    weights[rng.randrange(K_MAX)] = bad
    request.codes.CopyFrom(code_batch(rng, request.codes.count, weights))
    return f"weight {bad}"


def _rising_weights(request: Any, rng: random.Random) -> str:
    request.codes.CopyFrom(code_batch(rng, request.codes.count, [float(place + 1) for place in range(K_MAX)]))
    return "rising weights"


def _latent_out_of_range(request: Any, rng: random.Random) -> str:
    latent = rng.randrange(HIDDEN_DIM, 1 << 16)
    request.codes.latents = struct.pack("<H", latent) + request.codes.latents[2:]
    return f"latent {latent}"


def _repeated_latent(request: Any, rng: random.Random) -> str:
    request.codes.latents = request.codes.latents[2:4] + request.codes.latents[2:]
    return "repeated latent"


def _wrong_size(request: Any, rng: random.Random) -> str:
    field = rng.choice(("lengths", "latents", "weights"))
    size = rng.randrange(len(getattr(request.codes, field)))
    setattr(request.codes, field, getattr(request.codes, field)[:size])
    return f"{field} of {size} bytes"


def _wrong_count(request: Any, rng: random.Random) -> str:
    request.codes.count = rng.choice((0, request.codes.count + 1, 10**9, 2**32 - 1))
    return f"count {request.codes.count}"


def _no_vectors(request: Any, rng: random.Random) -> str:
    request.ClearField("codes")
    return "no vectors"


def _embeddings(request: Any, rng: random.Random) -> str:
    request.embeddings.CopyFrom(vector_pb2.EmbeddingBatch(count=1, dim=4, values=rng.randbytes(16)))
    return "embeddings for codes"


def _texts(request: Any, rng: random.Random) -> str:
    request.texts.texts.append("".join(rng.choices(string.printable, k=20)))
    return "texts for codes"


def _fingerprint(request: Any, rng: random.Random) -> str:
    request.codes.fingerprint = rng.choice(("", "ab" * 16, FINGERPRINT.upper(), FINGERPRINT[1:], "x" * 100_000))
    return "codes of another model"


def _unknown_collection(request: Any, rng: random.Random) -> str:
    request.collection = rng.choice(("", NOWHERE, "x" * 10_000, "../../etc/passwd", "csr:*", "a\x00b", "\U0001f600"))
    return "unknown collection"


def _top_n(request: Any, rng: random.Random) -> str:
    request.top_n = rng.choice((0, limits.TOP_N_MAX + 1, 10**9, 2**32 - 1))
    return f"top_n {request.top_n}"


def _latents_in_use(request: Any, rng: random.Random) -> str:
    field = rng.choice(("k", "k_query", "k_docs"))
    setattr(request, field, rng.choice((limits.K_QUERY_MAX + 1, 10**9, 2**32 - 1)))
    return f"{field} {getattr(request, field)}"


def _min_score(request: Any, rng: random.Random) -> str:
    request.min_score = rng.choice((float("nan"), float("inf"), -float("inf")))
    return f"min_score {request.min_score}"


def _rerank(request: Any, rng: random.Random) -> str:
    request.rerank = rng.choice((1, 50, 2**32 - 1))
    return "rerank without embeddings"


def _foreign_token(request: Any, rng: random.Random) -> str:
    request.token.collection_id = rng.choice(("another", "x" * 10_000))
    return "token of another collection"


def _undeclared_field(request: Any, rng: random.Random) -> str:
    field = rng.choice(("", "price", "x" * 10_000, "__proto__"))
    request.where.equals.CopyFrom(filter_pb2.Equals(field=field, value=filter_pb2.FieldValue(int=1)))
    return "filter on an undeclared field"


def _wrong_value(request: Any, rng: random.Random) -> str:
    value = rng.choice((filter_pb2.FieldValue(keyword="x"), filter_pb2.FieldValue(bool=True), filter_pb2.FieldValue()))
    request.where.equals.CopyFrom(filter_pb2.Equals(field="year", value=value))
    return "filter value of another type"


def _deep_filter(request: Any, rng: random.Random) -> str:
    where = filter_pb2.Filter(equals=filter_pb2.Equals(field="year", value=filter_pb2.FieldValue(int=1)))
    for _ in range(rng.choice((limits.FILTER_DEPTH_MAX + 1, 45))):
        where = negated(where)
    request.where.CopyFrom(where)
    return "deep filter"


def _unbounded_range(request: Any, rng: random.Random) -> str:
    request.where.range.CopyFrom(filter_pb2.Range(field="year", gte=rng.choice((None, float("nan"), float("inf")))))
    return "range without bounds"


def _many_queries(request: Any, rng: random.Random) -> str:
    request.codes.CopyFrom(code_batch(rng, limits.QUERIES_PER_SEARCH_MAX + 1))
    return "too many queries"


def _no_ids(request: Any, rng: random.Random) -> str:
    del request.ids[:]
    return "no ids"


def _bad_id(request: Any, rng: random.Random) -> str:
    request.ids[rng.randrange(len(request.ids))] = rng.choice(("", "x" * (limits.ID_BYTES_MAX + 1), "ü" * 100_000))
    return "id too short or too long"


def _repeated_id(request: Any, rng: random.Random) -> str:
    request.ids[:] = ["same", "same"]
    request.codes.CopyFrom(code_batch(rng, 2))
    return "repeated id"


def _another_number_of_ids(request: Any, rng: random.Random) -> str:
    request.ids.append("one more")
    return "more ids than codes"


def _bad_payload(request: Any, rng: random.Random) -> str:
    bad = rng.choice(
        ("{", "[]", "null", "1", '{"a": NaN}', '{"a": 1} x', "[" * 30_000, '{"a": ' * 5_000, '{"year": "old"}',
         '{"year": 1.5}', '{"year": 1e400}', '{"text": "' + "x" * limits.PAYLOAD_BYTES_MAX + '"}')
    )  # fmt: skip
    request.payloads_json[:] = [bad] * len(request.ids)
    return f"payload {bad[:20]}"


def _few_payloads(request: Any, rng: random.Random) -> str:
    request.payloads_json[:] = ["{}"] * (len(request.ids) + 1)
    return "payloads for other ids"


def _versions(request: Any, rng: random.Random) -> str:
    request.versions[:] = [rng.choice((0, 1, 2**53, 2**64 - 1))] * len(request.ids)
    return "versions where the store assigns them"


def _write_id(request: Any, rng: random.Random) -> str:
    request.write_id = "x" * rng.choice((limits.WRITE_ID_BYTES_MAX + 1, 100_000))
    return "long write id"


_CODE_DEFECTS = (
    (_bad_weights, _INVALID),
    (_rising_weights, _INVALID),
    (_latent_out_of_range, _INVALID),
    (_repeated_latent, _INVALID),
    (_wrong_size, _INVALID),
    (_wrong_count, _INVALID),
    (_no_vectors, _INVALID),
    (_embeddings, _WRONG),
    (_texts, _WRONG),
    (_fingerprint, _WRONG),
    (_unknown_collection, _NOT_FOUND),
)
_SEARCH_DEFECTS = (
    *_CODE_DEFECTS,
    (_top_n, _INVALID),
    (_latents_in_use, _INVALID),
    (_min_score, _INVALID),
    (_rerank, _WRONG),
    (_foreign_token, _WRONG),
    (_undeclared_field, _INVALID),
    (_wrong_value, _INVALID),
    (_deep_filter, _INVALID),
    (_unbounded_range, _INVALID),
    (_many_queries, _INVALID),
)
_UPSERT_DEFECTS = (
    *_CODE_DEFECTS,
    (_no_ids, _INVALID),
    (_bad_id, _INVALID),
    (_repeated_id, _INVALID),
    (_another_number_of_ids, _INVALID),
    (_bad_payload, _INVALID),
    (_few_payloads, _INVALID),
    (_versions, _INVALID),
    (_write_id, _INVALID),
)
