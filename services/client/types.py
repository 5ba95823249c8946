"""What the client takes and returns: numpy arrays and plain frozen dataclasses, no protobuf."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Kind = Literal["dense", "codes"]
Versioning = Literal["assigned", "client"]
GenerationState = Literal["building", "active", "retained"]
FieldType = Literal["keyword", "int", "float", "bool", "keywords"]
WriteStatus = Literal["applied", "unchanged", "stale", "conflict", "missing", "invalid"]
Payload = Mapping[str, Any]
"""A JSON object."""
Floats = NDArray[np.floating[Any]]
"""Embeddings [n, d]."""


class Codes(NamedTuple):
    """Codes of one model, row by row.

    Attributes:
        latents: Integer [n, k], by weight descending within a row, then latent ascending.
        weights: float32 [n, k]; trailing padding has weight 0.
        fingerprint: Of the model that made them, 32 hex digits.
    """

    latents: NDArray[np.integer[Any]]
    weights: NDArray[np.floating[Any]]
    fingerprint: str


@dataclass(frozen=True)
class Token:
    """Positions in the logs of a collection, by partition. A search that carries it sees the writes it covers."""

    collection_id: str
    positions: Mapping[int, int]


@dataclass(frozen=True)
class DocumentWrite:
    """What became of one document, and the version that is stored now (0: none is)."""

    status: WriteStatus
    version: int
    error: str = ""
    """Status invalid: what is wrong with the document."""


@dataclass(frozen=True)
class WriteResult:
    """What became of a write: one result per id, in order."""

    results: list[DocumentWrite]
    token: Token
    write_id: str
    """Repeat the write under this name to learn its first result again."""
    visible: bool = False
    """With wait: searches see it. False when the time was up first; it is stored all the same."""


@dataclass(frozen=True)
class FilterDeletion:
    """What a deletion by filter did."""

    deleted: int
    skipped: int
    """Documents that matched, but were written again meanwhile, or have a higher version."""
    token: Token
    visible: bool
    """As in WriteResult."""


@dataclass(frozen=True)
class Batch:
    """Documents for upsert_stream, any number; vectors in exactly one of three forms. See Client.upsert."""

    ids: Sequence[str]
    embeddings: Floats | None = None
    texts: Sequence[str] | None = None
    codes: Codes | None = None
    payloads: Sequence[Payload] | None = None
    versions: Sequence[int] | None = None


@dataclass(frozen=True)
class BatchResult:
    """What became of one batch of an upsert stream."""

    results: list[DocumentWrite | None]
    """One per document, in order. None: it was sent by an earlier call, which was told what became of it."""
    token: Token | None
    """Covers what was stored; None when an earlier call stored all of it."""


@dataclass(frozen=True)
class Document:
    """A stored document; embedding and code only when asked for."""

    id: str
    version: int
    payload: dict[str, Any] | None
    embedding: NDArray[np.float32] | None = None
    """[input_dim]"""
    latents: NDArray[np.uint16] | None = None
    """[k], by weight descending"""
    weights: NDArray[np.float32] | None = None
    """[k], L2-normalised"""


@dataclass(frozen=True)
class Documents:
    """Documents that exist and ids that do not, both in the order asked for."""

    documents: list[Document]
    missing: list[str]


@dataclass(frozen=True)
class CountResult:
    """Live documents, exact at the positions of the token."""

    count: int
    token: Token


@dataclass(frozen=True)
class Hit:
    """A document that was found."""

    id: str
    score: float
    payload: dict[str, Any] | None = None


@dataclass(frozen=True)
class Model:
    """One version of one registered model."""

    name: str
    version: int
    fingerprint: str


@dataclass(frozen=True)
class Receipt:
    """What an answer is an answer from."""

    collection_id: str
    generation: int
    model: Model
    k_query: int
    k_docs: int
    coverage: float
    """Share of partitions that answered, 0 to 1."""
    token: Token
    """Positions that every partition had reached at least."""
    payloads_missing: bool
    """The store could not be read: hits come without payloads."""
    missing_partitions: list[int]
    """With allow_partial: partitions that did not answer."""
    staleness_seconds: float
    """The answer lacks no write that was acknowledged longer ago than this."""
    k_lowered: bool
    """With allow_lower_k: k_query and k_docs are lower than what was asked for."""


@dataclass(frozen=True)
class SearchResult:
    """One list of hits per query, in order; each by score descending, then id ascending."""

    hits: list[list[Hit]]
    receipt: Receipt


@dataclass(frozen=True)
class Page:
    """Documents by id ascending (as UTF-8 bytes)."""

    documents: list[Document]
    next_cursor: str
    """For the next page; empty after the last."""
    receipt: Receipt


@dataclass(frozen=True)
class Contribution:
    """What one latent adds to a score; the weights are those of the L2-normalised codes."""

    latent: int
    query_weight: float
    document_weight: float
    contribution: float


@dataclass(frozen=True)
class Explanation:
    """Why a document scores what it scores: the contributions, largest first, add up to the score."""

    id: str
    found: bool
    """False: there is no such document."""
    score: float
    contributions: list[Contribution]


@dataclass(frozen=True)
class Explanations:
    """One explanation per id, in order."""

    explanations: list[Explanation]
    receipt: Receipt


@dataclass(frozen=True)
class Generation:
    """One complete encoding of a collection by one model version."""

    generation: int
    state: GenerationState
    model: Model


@dataclass(frozen=True)
class Collection:
    """A collection; input_dim is 0 for kind codes."""

    name: str
    collection_id: str
    kind: Kind
    versioning: Versioning
    input_dim: int
    hidden_dim: int
    k_max: int
    partitions: int
    generations: list[Generation]
    fields: dict[str, FieldType]
    """Declared fields, which filters may use."""

    @property
    def active(self) -> Generation:
        """The generation that answers searches."""
        return next(generation for generation in self.generations if generation.state == "active")


@dataclass(frozen=True)
class PartitionState:
    """Head of a partition's log in the store, and how far the index server is that holds it."""

    partition: int
    lsn: int
    documents: int
    index_server: str
    visible_lsn: int
    ready: bool
    staleness_seconds: float
    """The server lacks no write that was acknowledged longer ago than this; 0 when it cannot be reached."""


@dataclass(frozen=True)
class CollectionDescription:
    """A collection and its state."""

    collection: Collection
    documents: int
    partitions: list[PartitionState]
    appendfsync: str
    """The store's fsync policy: what an acknowledged write is worth."""


@dataclass(frozen=True)
class ProcessStatus:
    """One process as the router sees it."""

    name: str
    address: str
    ready: bool
    detail: str


@dataclass(frozen=True)
class DeploymentStatus:
    """Every process, by name, and the largest distance between a log head and what is visible, in entries."""

    processes: list[ProcessStatus]
    max_lag: int
