"""ShardService: the gRPC face of an index server. Translates and delegates."""

import asyncio
import time
from collections.abc import Iterable
from typing import Any, Final

import grpc

from csr.v1 import search_pb2, shard_pb2, shard_pb2_grpc, vector_pb2
from services.index.audit import Content, contents
from services.index.collection import CollectionIndex
from services.index.core.explain import Explanation
from services.index.filters import where_from_proto
from services.index.follower import Follower
from services.index.generation import GenerationIndex
from services.index.held import HeldPartition
from services.index.lanes import Lanes
from services.index.memory import MemoryGuard, resident_bytes
from services.index.requests import explain_options, partitions_of, positions_of, scan_limit, search_options
from services.index.snapshot_files import UnusableSnapshot
from services.index.snapshots import Snapshots
from services.index.views import View, Views, Wanted
from services.runtime import limits, metrics
from services.runtime.codec import RaggedCodes, codes_from_proto
from services.runtime.errors import LimitExceeded

DEADLINE_SECONDS: Final = 10.0
"""Deadline of a request that brings none."""
_ANSWER_SECONDS: Final = 0.005
"""Kept back from a deadline, so that the reason reaches the caller before its own clock runs out."""

Context = grpc.aio.ServicerContext[Any, Any]


class ShardService(shard_pb2_grpc.ShardServiceServicer):
    """Searches, lists and describes the partitions that a follower keeps.

    Every method but GetShardStatus raises: InvalidRequest, LimitExceeded where the request is wrong; WrongOwner where a
    partition is not held here; WrongState where the collection has no such generation; PartitionUnavailable where a
    partition is not ready; DeadlineSpent where positions were not reached in time; Overloaded.
    """

    def __init__(self, name: str, follower: Follower, lanes: Lanes, memory: MemoryGuard, snapshots: Snapshots) -> None:
        self._name = name
        self._follower = follower
        self._lanes = lanes
        self._memory = memory
        self._snapshots = snapshots
        self._views = Views(name, follower)

    async def SearchPartitions(  # noqa: N802 - the name comes from the proto
        self, request: shard_pb2.SearchPartitionsRequest, context: Context
    ) -> shard_pb2.SearchPartitionsResponse:
        """Answer with the exact best documents of the named partitions, at positions that the answer names.

        Raises:
            InvalidVector, FingerprintMismatch: a query that is none, or is of another model.
        """
        wanted = _wanted(request, context, partial=request.allow_partial)
        collection = await self._views.collection(request.collection_id, wanted.partitions, request.generation)
        options = search_options(request, where_from_proto(request.where, "where", collection.record.fields))
        codes = _codes(request.codes, collection.generations[request.generation], limits.QUERIES_PER_SEARCH_MAX)
        view = await self._views.view(collection, request.generation, wanted)
        results = await self._lanes.search(view.index, view.published, codes, options, view.partitions, wanted.deadline)
        metrics.counter(metrics.INDEX_QUERIES).inc(len(codes))
        response = shard_pb2.SearchPartitionsResponse(positions=_positions(view), staleness_seconds=view.staleness)
        for hits in results:
            response.results.add(ids=[id for id, _ in hits], scores=[score for _, score in hits])
            await asyncio.sleep(0)  # 256 queries with 1,000 hits each must not hold up all other requests
        return response

    async def ScanPartitions(  # noqa: N802
        self, request: shard_pb2.ScanPartitionsRequest, context: Context
    ) -> shard_pb2.ScanPartitionsResponse:
        """List documents of the named partitions by id."""
        wanted, limit = _wanted(request, context), scan_limit(request)
        collection = await self._views.collection(request.collection_id, wanted.partitions, request.generation)
        where = where_from_proto(request.where, "where", collection.record.fields)
        view = await self._views.view(collection, request.generation, wanted)
        found = await self._lanes.run(
            lambda: view.index.scan(view.published, limit, request.after or None, where, view.partitions),
            view.published.state.documents,
            wanted.deadline,
        )
        return shard_pb2.ScanPartitionsResponse(
            ids=[document.id for document in found],
            versions=[document.version for document in found],
            positions=_positions(view),
            staleness_seconds=view.staleness,
        )

    async def CountPartitions(  # noqa: N802
        self, request: shard_pb2.CountPartitionsRequest, context: Context
    ) -> shard_pb2.CountPartitionsResponse:
        """Count documents of the named partitions."""
        wanted = _wanted(request, context)
        collection = await self._views.collection(request.collection_id, wanted.partitions, request.generation)
        where = where_from_proto(request.where, "where", collection.record.fields)
        view = await self._views.view(collection, request.generation, wanted)
        count = await self._lanes.run(
            lambda: view.index.count(view.published, where, view.partitions),
            view.published.state.documents,
            wanted.deadline,
        )
        return shard_pb2.CountPartitionsResponse(count=count, positions=_positions(view))

    async def ExplainPartitions(  # noqa: N802
        self, request: shard_pb2.ExplainPartitionsRequest, context: Context
    ) -> shard_pb2.ExplainPartitionsResponse:
        """Say which latents make up the scores of documents, found by a search or not.

        Raises:
            InvalidVector, FingerprintMismatch: as SearchPartitions.
        """
        wanted, options = _wanted(request, context), explain_options(request)
        collection = await self._views.collection(request.collection_id, wanted.partitions, request.generation)
        codes = _codes(request.codes, collection.generations[request.generation], 1)
        latents, weights = codes.padded()
        view = await self._views.view(collection, request.generation, wanted)
        explained = await self._lanes.run(
            lambda: view.index.explain(view.published, latents, weights, list(request.ids), options),
            len(request.ids),
            wanted.deadline,
        )
        return shard_pb2.ExplainPartitionsResponse(
            explanations=[_explanation(id, given) for id, given in zip(request.ids, explained, strict=True)],
            positions=_positions(view),
            staleness_seconds=view.staleness,
        )

    async def AwaitPositions(  # noqa: N802
        self, request: shard_pb2.AwaitPositionsRequest, context: Context
    ) -> shard_pb2.AwaitPositionsResponse:
        """Answer when searches of all generations see these positions."""
        positions = positions_of(request.positions)
        partitions = partitions_of(sorted(positions))
        collection = await self._views.collection(request.collection_id, partitions)
        await self._views.reached(collection, Wanted(partitions, positions, _deadline(context)))
        return shard_pb2.AwaitPositionsResponse()

    async def AuditPartitions(  # noqa: N802
        self, request: shard_pb2.AuditPartitionsRequest, context: Context
    ) -> shard_pb2.AuditPartitionsResponse:
        """Recompute what should equal the store, from every document in memory and in the latest snapshot."""
        wanted = _wanted(request, context)
        collection = await self._views.collection(request.collection_id, wanted.partitions)
        view = await self._views.view(collection, collection.record.active.generation, wanted)
        engine, state = view.index.engine, view.published.state
        in_memory = await asyncio.to_thread(contents, engine, wanted.partitions, state)
        audited = {
            partition: shard_pb2.AuditedPartition(
                partition=partition, memory=_digest(view.published.positions[partition], in_memory[partition])
            )
            for partition in sorted(wanted.partitions)
        }
        await self._audit_snapshot(collection, audited)
        return shard_pb2.AuditPartitionsResponse(partitions=audited.values())

    async def GetShardStatus(  # noqa: N802
        self, request: shard_pb2.GetShardStatusRequest, context: Context
    ) -> shard_pb2.GetShardStatusResponse:
        """Describe what this server holds, from memory."""
        return shard_pb2.GetShardStatusResponse(
            name=self._name,
            term=self._follower.term,
            partitions=[
                self._describe(collection, held)
                for collection_id, collection in sorted(self._follower.collections.items())
                if request.collection_id in ("", collection_id)
                for _, held in sorted(collection.held.items())
            ],
            memory_bytes=resident_bytes(),
            memory_limit_bytes=self._memory.limit_bytes,
        )

    async def _audit_snapshot(
        self, collection: CollectionIndex, audited: dict[int, shard_pb2.AuditedPartition]
    ) -> None:
        try:
            snapshot = await self._snapshots.latest(collection.record)
        except UnusableSnapshot as reason:
            for partition in audited.values():
                partition.snapshot_problem = str(reason)
            return
        if snapshot is not None:
            engine = snapshot.engines[collection.record.active.generation]
            saved = audited.keys() & snapshot.states.keys()
            found = await asyncio.to_thread(contents, engine, saved)
            for number in saved:
                audited[number].snapshot.CopyFrom(_digest(snapshot.states[number].tail.lsn, found[number]))

    def _describe(self, collection: CollectionIndex, held: HeldPartition) -> shard_pb2.HeldPartition:
        return shard_pb2.HeldPartition(
            collection_id=collection.record.collection_id,
            partition=held.partition,
            lsn=held.tail.lsn,
            documents=held.state.documents,
            ready=collection.ready(held.partition),
            state_digest=held.state.digest.hex(),
            head_lsn=held.head_lsn,
            staleness_seconds=max(time.monotonic() - self._follower.complete_until(held), 0.0),
            problem=held.problem,
        )


_Reading = (
    shard_pb2.SearchPartitionsRequest
    | shard_pb2.ScanPartitionsRequest
    | shard_pb2.CountPartitionsRequest
    | shard_pb2.ExplainPartitionsRequest
    | shard_pb2.AuditPartitionsRequest
)


def _wanted(request: _Reading, context: Context, partial: bool = False) -> Wanted:
    return Wanted(partitions_of(request.partitions), positions_of(request.positions), _deadline(context), partial)


def _deadline(context: Context) -> float:
    remaining = context.time_remaining()
    seconds = DEADLINE_SECONDS if remaining is None else max(remaining - _ANSWER_SECONDS, 0.0)
    return asyncio.get_running_loop().time() + seconds


def _codes(batch: vector_pb2.CodeBatch, index: GenerationIndex, count_max: int) -> RaggedCodes:
    record = index.record
    codes = codes_from_proto(batch, "codes", record.hidden_dim, limits.K_QUERY_MAX, record.fingerprint)
    if len(codes) > count_max:
        raise LimitExceeded(f"codes.count: {len(codes)}, at most {count_max} are allowed")
    return codes


def _positions(view: View) -> Iterable[search_pb2.PartitionPosition]:
    positions = view.published.positions
    return [search_pb2.PartitionPosition(partition=number, lsn=positions[number]) for number in sorted(view.partitions)]


def _explanation(id: str, given: Explanation | None) -> search_pb2.Explanation:
    if given is None:
        return search_pb2.Explanation(id=id)
    return search_pb2.Explanation(
        id=id,
        found=True,
        score=given.score,
        contributions=[
            search_pb2.Contribution(
                latent=part.latent,
                query_weight=part.query_weight,
                document_weight=part.document_weight,
                contribution=part.score,
            )
            for part in given.contributions
        ],
    )


def _digest(lsn: int, content: Content) -> shard_pb2.ContentDigest:
    return shard_pb2.ContentDigest(lsn=lsn, documents=content.documents, state_digest=content.digest.hex())
