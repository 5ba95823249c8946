"""A collection in a real Redis, and everything that was ever written to it, so that any answer can be checked."""

import json
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
from google.protobuf.message import Message
from redis.asyncio import Redis

from csr.v1 import search_pb2, shard_pb2, shard_pb2_grpc
from services.index.core.code import quantise
from services.index.core.fields import FieldType
from services.index.store.catalog import Catalog, CollectionRecord, GenerationRecord, new_collection_id
from services.index.store.entry import DocumentBody, QuantisedCode, input_digest
from services.index.store.functions import ensure_functions
from services.index.store.keys import partition_of
from services.index.store.placement import IndexServer, PlacementTable, read_placement, write_placement
from services.index.store.writer import DocumentWrite, LogWriter
from services.runtime.codec import RaggedCodes, codes_to_proto
from services.runtime.errors import WrongState, error_from_rpc
from services.runtime.settings import LogSettings
from tests.services.index.core import oracle
from tests.support.index_server import IndexServerProcess

HIDDEN_DIM = 64
K_MAX = 8
FINGERPRINT = "ab" * 16
Hits = list[list[tuple[str, float]]]


def random_code(rng: np.random.Generator, latents: int = K_MAX) -> QuantisedCode:
    """Return a stored code with few distinct weights, so that ties are common."""
    chosen = np.sort(rng.choice(HIDDEN_DIM, latents, replace=False))
    weights = -np.sort(-rng.integers(1, 5, latents)).astype(np.float32)
    stored = quantise(chosen[None], weights[None], hidden_dim=HIDDEN_DIM, active_max=K_MAX)
    return QuantisedCode(stored.latents[0], stored.weights[0])


def as_ragged(codes: Sequence[QuantisedCode]) -> RaggedCodes:
    """Return stored codes as queries."""
    return RaggedCodes(
        np.array([len(code.latents) for code in codes], np.uint16),
        np.array([latent for code in codes for latent in code.latents], np.uint16),
        np.array([weight for code in codes for weight in code.weights], np.float32),
    )


@dataclass
class World:
    """One collection and its history.

    Attributes:
        history: By partition, then LSN: the id that was written and its document, None for a deletion.
        versions: By partition, then LSN: the version that was written.
    """

    redis: Redis
    record: CollectionRecord
    history: dict[int, dict[int, tuple[str, oracle.Document | None]]] = field(default_factory=lambda: defaultdict(dict))
    versions: dict[int, dict[int, int]] = field(default_factory=lambda: defaultdict(dict))

    @classmethod
    async def create(
        cls, redis: Redis, name: str | None = None, partitions: int = 4, fields: Mapping[str, FieldType] | None = None
    ) -> "World":
        """Create a collection of kind codes."""
        collection_id = new_collection_id()
        record = CollectionRecord(
            name=name or f"c{collection_id}",
            collection_id=collection_id,
            kind="codes",
            versioning="assigned",
            input_dim=0,
            k_max=K_MAX,
            partitions=partitions,
            generations=(GenerationRecord(1, "active", "model", 1, FINGERPRINT, HIDDEN_DIM),),
            fields=dict(fields or {}),
        )
        await ensure_functions(redis)
        await Catalog(redis).create(record)
        return cls(redis, record)

    @property
    def positions(self) -> dict[int, int]:
        """Position of the last write, by partition."""
        return {partition: max(entries) for partition, entries in self.history.items()}

    async def upsert(
        self, documents: Mapping[str, QuantisedCode], payloads: Mapping[str, Mapping[str, Any]] | None = None
    ) -> None:
        """Write documents, and remember what was acknowledged."""
        writes = {}
        for id, code in documents.items():
            payload = json.dumps(payloads[id]).encode() if payloads else b""
            body = DocumentBody(payload=payload, codes={1: code})
            writes[id] = DocumentWrite(id, 0, False, body, input_digest(code.weights.tobytes(), payload))
        await self._write(writes)

    async def delete(self, ids: Iterable[str]) -> None:
        """Delete documents, and remember what was acknowledged."""
        await self._write({id: DocumentWrite(id, 0, True, None, input_digest(b"")) for id in ids})

    async def fill(self, rng: np.random.Generator, count: int) -> None:
        """Write documents doc-0, doc-1, … in one go, replace a few and delete a few."""
        await self.upsert({f"doc-{i}": random_code(rng) for i in range(count)})
        await self.upsert({f"doc-{i}": random_code(rng) for i in range(0, count, 5)})
        await self.delete(f"doc-{i}" for i in range(0, count, 7))

    def documents(self, positions: Mapping[int, int]) -> dict[str, oracle.Document]:
        """Return the documents that live at these positions."""
        live: dict[str, oracle.Document] = {}
        for partition, position in positions.items():
            for lsn in sorted(lsn for lsn in self.history[partition] if lsn <= position):
                id, document = self.history[partition][lsn]
                if document is None:
                    live.pop(id, None)
                else:
                    live[id] = document
        return live

    def live_versions(self, positions: Mapping[int, int]) -> dict[str, int]:
        """Return the versions of the documents that live at these positions."""
        live: dict[str, int] = {}
        for partition, position in positions.items():
            for lsn in sorted(lsn for lsn in self.history[partition] if lsn <= position):
                id, document = self.history[partition][lsn]
                live.pop(id, None)
                if document is not None:
                    live[id] = self.versions[partition][lsn]
        return live

    def expected(
        self,
        queries: Sequence[QuantisedCode],
        positions: Mapping[int, int],
        top_n: int = 10,
        k: int = K_MAX,
        matches: Callable[[oracle.Document], bool] = lambda _: True,
    ) -> Hits:
        """Return the right answer at these positions, by brute force."""
        documents = self.documents(positions)
        ragged = as_ragged(queries)
        codes = [
            oracle.stored_code(ragged.latents[begin:end].tolist(), ragged.weights[begin:end].tolist())
            for begin, end in zip(ragged.offsets[:-1], ragged.offsets[1:], strict=True)
        ]
        return [oracle.search(documents, code, top_n, k, k, matches=matches) for code in codes]

    async def _write(self, writes: Mapping[str, DocumentWrite]) -> None:
        by_partition: dict[int, list[DocumentWrite]] = defaultdict(list)
        for id, write in writes.items():
            by_partition[partition_of(id, self.record.partitions)].append(write)
        writer = LogWriter(self.redis, LogSettings())
        for partition, members in by_partition.items():
            written = await writer.write(self.record, partition, members, uuid.uuid4().hex)
            first = written.lsn - len(members) + 1
            for lsn, write in enumerate(members, first):
                self.history[partition][lsn] = write.id, _document(write.body, partition)
                self.versions[partition][lsn] = written.outcomes[lsn - first].version


def _document(body: DocumentBody | None, partition: int) -> oracle.Document | None:
    if body is None:
        return None
    code = list(zip(body.codes[1].latents.tolist(), body.codes[1].weights.tolist(), strict=True))
    return oracle.Document(code, json.loads(body.payload or b"{}"), partition)


@dataclass(frozen=True)
class Answer:
    """What a server answered: hits of each query, and the positions it answered at."""

    hits: Hits
    positions: dict[int, int]
    staleness: float = field(default=0.0, compare=False)


async def search(
    server: IndexServerProcess,
    record: CollectionRecord,
    queries: Sequence[QuantisedCode],
    partitions: Sequence[int] | None = None,
    positions: Mapping[int, int] | None = None,
    timeout: float = 10.0,
    **changes: object,
) -> Answer:
    """Ask a server; `changes` replace fields of the request.

    Raises:
        CsrError: the domain error that the server named.
    """
    request = shard_pb2.SearchPartitionsRequest(
        collection_id=record.collection_id,
        generation=1,
        partitions=range(record.partitions) if partitions is None else partitions,
        codes=codes_to_proto(as_ragged(queries), FINGERPRINT),
        top_n=10,
        k_query=K_MAX,
        k_docs=K_MAX,
        positions=positions_of(positions or {}),
    )
    for name, value in changes.items():
        if isinstance(value, Message):
            getattr(request, name).CopyFrom(value)
        else:
            setattr(request, name, value)
    response = await ask(server, "SearchPartitions", request, timeout)
    return Answer(
        [list(zip(hits.ids, hits.scores, strict=True)) for hits in response.results],
        positions_in(response),
        response.staleness_seconds,
    )


async def ask(server: IndexServerProcess, method: str, request: Message, timeout: float = 10.0) -> Any:
    """Call a method of a server.

    Raises:
        CsrError: the domain error that the server named.
    """
    async with grpc.aio.insecure_channel(server.address) as channel:
        try:
            return await getattr(shard_pb2_grpc.ShardServiceStub(channel), method)(request, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error) from error


def positions_in(response: Any) -> dict[int, int]:
    """Return the positions of an answer."""
    return {position.partition: position.lsn for position in response.positions}


def positions_of(positions: Mapping[int, int]) -> list[search_pb2.PartitionPosition]:
    """Return positions as a request has them."""
    return [search_pb2.PartitionPosition(partition=partition, lsn=lsn) for partition, lsn in positions.items()]


async def status(server: IndexServerProcess, collection_id: str = "") -> shard_pb2.GetShardStatusResponse:
    """Ask a server what it holds."""
    request = shard_pb2.GetShardStatusRequest(collection_id=collection_id)
    reply: shard_pb2.GetShardStatusResponse = await ask(server, "GetShardStatus", request)
    return reply


async def place(redis: Redis, servers: Sequence[IndexServerProcess]) -> None:
    """Make these the index servers, whatever was there before."""
    await ensure_functions(redis)
    try:
        term = (await read_placement(redis)).term
    except WrongState:
        term = 0
    table = PlacementTable(term + 1, 1, tuple(IndexServer(server.name, server.address) for server in servers))
    await write_placement(redis, table, term)
