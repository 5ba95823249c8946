"""The blocking client. Every method is one call of the router; see services.client for a tour."""

import uuid
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc

from csr.v1 import control_pb2, control_pb2_grpc, search_pb2, search_pb2_grpc
from services.client import requests, responses
from services.client.requests import Floats
from services.client.retry import Budget
from services.client.types import (
    Codes,
    Collection,
    CollectionDescription,
    CountResult,
    DeploymentStatus,
    Documents,
    Kind,
    Payload,
    SearchResult,
    Token,
    Versioning,
    WriteResult,
)
from services.runtime.channel import CHANNEL_OPTIONS
from services.runtime.errors import error_from_rpc

Response = TypeVar("Response")


class Client:
    """A connection to a router; may be shared between threads. Use it as a context manager, or close it.

    Calls raise the errors of services.runtime.errors. Reads, and writes under their write id, are repeated while the
    deployment is UNAVAILABLE, until the time is up.
    """

    def __init__(self, address: str, timeout_seconds: float = 30.0) -> None:
        """Create a client; it connects at the first call.

        Args:
            address: host:port of a router.
            timeout_seconds: Longest that one call takes, retries included. A write of many documents is sent as
                several requests, each with this time.
        """
        self._channel = grpc.insecure_channel(address, options=CHANNEL_OPTIONS)
        self._search = search_pb2_grpc.SearchServiceStub(self._channel)
        self._control = control_pb2_grpc.ControlServiceStub(self._channel)
        self._timeout_seconds = timeout_seconds

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def create_collection(
        self,
        name: str,
        model: str,
        *,
        kind: Kind = "dense",
        model_version: int = 0,
        fingerprint: str = "",
        hidden_dim: int = 0,
        k_max: int = 0,
        partitions: int = 0,
        versioning: Versioning = "assigned",
    ) -> Collection:
        """Create a collection.

        Args:
            name: 1..64 characters of a-z, 0-9, '-' and '_', beginning with a letter.
            model: Registered model; for kind codes, a name to remember it by.
            kind: `dense` takes embeddings and texts, `codes` takes codes.
            model_version: Version for kind dense; 0 takes the champion.
            fingerprint: Of the model; required for kind codes.
            hidden_dim: Number of latents; for kind codes only.
            k_max: Active latents kept per document; 0 takes the model's, for kind dense only.
            partitions: Hash buckets, fixed for ever; 0 takes 16.
            versioning: `client` if every write brings a version.

        Raises:
            CollectionExists: also when an earlier attempt succeeded, but its answer was lost.
        """
        request = requests.create_collection_request(
            name, kind, model, model_version, fingerprint, hidden_dim, k_max, partitions, versioning
        )
        response = self._once(self._control.CreateCollection, request)
        return responses.collection(response.collection)

    def describe_collection(self, name: str) -> CollectionDescription:
        """Describe a collection: its model, its documents, and how far index servers have read."""
        request = control_pb2.DescribeCollectionRequest(name=name)
        return responses.collection_description(self._retried(self._control.DescribeCollection, request))

    def list_collections(self) -> list[Collection]:
        """Return all collections, by name."""
        request = control_pb2.ListCollectionsRequest()
        response = self._retried(self._control.ListCollections, request)
        return [responses.collection(message) for message in response.collections]

    def delete_collection(self, name: str) -> str:
        """Delete a collection and all its documents; return its id."""
        request = control_pb2.DeleteCollectionRequest(name=name)
        response = self._once(self._control.DeleteCollection, request)
        return response.collection_id

    def upsert(
        self,
        collection: str,
        ids: Sequence[str],
        *,
        embeddings: Floats | None = None,
        texts: Sequence[str] | None = None,
        codes: Codes | None = None,
        payloads: Sequence[Payload] | None = None,
        versions: Sequence[int] | None = None,
        write_id: str | None = None,
        allow_truncation: bool = False,
    ) -> WriteResult:
        """Store documents, any number: they are sent in as many requests as the limits of one need.

        Args:
            collection: Its name.
            ids: 1..128 bytes each; unique within 1,000 in a row.
            embeddings: [n, d] of any float type; kind dense.
            texts: One each; kind dense, with a backbone in the encoder.
            codes: One row each; kind codes.
            payloads: One JSON object each.
            versions: One each, for client-versioned collections.
            write_id: Names the write: a repeat with the same arguments returns the first results and stores nothing.
            allow_truncation: Cut texts over the backbone's limit instead of refusing them.

        Raises:
            CsrError: of the first request that failed; those before it were stored. Repeat with the same write_id.
        """
        name = write_id or uuid.uuid4().hex
        parts = requests.upsert_requests(
            collection, ids, embeddings, texts, codes, payloads, versions, name, allow_truncation
        )
        return responses.write_result([self._retried(self._search.Upsert, part) for part in parts], name)

    def delete(
        self,
        collection: str,
        ids: Sequence[str],
        *,
        versions: Sequence[int] | None = None,
        write_id: str | None = None,
    ) -> WriteResult:
        """Delete documents by id; see upsert. Unknown ids are fine."""
        name = write_id or uuid.uuid4().hex
        parts = requests.delete_requests(collection, ids, versions, name)
        return responses.write_result([self._retried(self._search.Delete, part) for part in parts], name)

    def get(
        self, collection: str, ids: Sequence[str], *, include_embeddings: bool = False, include_codes: bool = False
    ) -> Documents:
        """Read up to 1,000 documents by id."""
        requests.check_texts("ids", ids)
        request = search_pb2.GetRequest(
            collection=collection, ids=ids, include_embeddings=include_embeddings, include_codes=include_codes
        )
        return responses.documents(self._retried(self._search.Get, request))

    def count(self, collection: str) -> CountResult:
        """Count live documents."""
        request = search_pb2.CountRequest(collection=collection)
        return responses.count_result(self._retried(self._search.Count, request))

    def search(
        self,
        collection: str,
        *,
        embeddings: Floats | None = None,
        texts: Sequence[str] | None = None,
        codes: Codes | None = None,
        top_n: int = 10,
        k: int = 0,
        k_query: int = 0,
        k_docs: int = 0,
        min_score: float | None = None,
        rerank: int = 0,
        include_payloads: bool = False,
        token: Token | None = None,
        allow_truncation: bool = False,
    ) -> SearchResult:
        """Find the exact best documents for up to 256 queries, given in one of three forms.

        Args:
            collection: Its name.
            embeddings: [n, d]; kind dense.
            texts: Kind dense, with a backbone in the encoder.
            codes: One row each, of the model of the collection's active generation.
            top_n: Hits per query, 1..1,000.
            k: Active latents on both sides; 0 takes the collection's k_max.
            k_query: Active latents of queries, 1..256; 0 takes k.
            k_docs: Active latents of documents, a power of two up to k_max or k_max itself; 0 takes k.
            min_score: Only hits with at least this score.
            rerank: Score this many sparse hits again with stored embeddings, then keep the best top_n; 0: do not.
            include_payloads: Send payloads of the hits.
            token: Wait until the writes that it covers are visible.
            allow_truncation: Cut texts over the backbone's limit instead of refusing them.
        """
        request = requests.search_request(
            collection,
            embeddings,
            texts,
            codes,
            top_n,
            k,
            k_query,
            k_docs,
            min_score,
            rerank,
            include_payloads,
            token,
            allow_truncation,
        )
        return responses.search_result(self._retried(self._search.Search, request))

    def status(self) -> DeploymentStatus:
        """Tell which processes the router can reach and how far behind they are."""
        request = control_pb2.GetStatusRequest()
        return responses.deployment_status(self._retried(self._control.GetStatus, request))

    def _retried(self, method: Callable[..., Response], request: Any) -> Response:
        budget = Budget(self._timeout_seconds)

        def attempt() -> Response:
            try:
                return method(request, timeout=budget.remaining())
            except grpc.RpcError as error:
                raise budget.meaning(error) from error

        return budget.retrying()(attempt)

    def _once(self, method: Callable[..., Response], request: Any) -> Response:
        try:
            return method(request, timeout=self._timeout_seconds)
        except grpc.RpcError as error:
            raise error_from_rpc(error) from error
