"""The documents and queries of a run as requests, and the adapter that makes the codes of one of the embeddings."""

from concurrent.futures import ThreadPoolExecutor
from typing import Final, Literal

import torch

from benchmarks.index_search.codes import Floats, Latents, blocks, prefix_of
from benchmarks.index_search.engines import THREADS
from benchmarks.index_search.synthetic import HIDDEN_DIM, INPUT_DIM, ROWS_AT_ONCE, Clustered, made
from csr.v1 import search_pb2, vector_pb2
from csr_model.adapter import CSRAdapter, adapter_of
from csr_model.autoencoder import CSRAutoencoder
from csr_model.config import decoded_ks
from services.runtime import limits
from services.runtime.codec import RaggedCodes, codes_to_proto, embeddings_to_proto

Form = Literal["codes", "embeddings"]

K: Final = 32
LEVELS: Final = (8, 16, K)
TOP_N: Final = 10
DOCUMENTS_PER_REQUEST: Final = limits.DOCUMENTS_PER_REQUEST_MAX
_SAMPLE_ROWS: Final = 256


def adapter_of_clustered(maker: Clustered) -> CSRAdapter:
    """Return the adapter whose code of an embedding of `maker` is the code that `maker` gives it."""
    model = CSRAutoencoder(INPUT_DIM, HIDDEN_DIM, decoded_ks(LEVELS, HIDDEN_DIM), normalize=False)
    with torch.no_grad():
        model.weight.copy_(torch.from_numpy(maker.dictionary.T))
    embeddings = maker.block(0).embeddings
    assert embeddings is not None, "clustered codes are made of embeddings"
    return adapter_of(model, LEVELS, torch.from_numpy(embeddings[:_SAMPLE_ROWS]), 0, training={}, data={})


def upserts(
    maker: Clustered, collection: str, form: Form, fingerprint: str, documents: int
) -> list[search_pb2.UpsertRequest]:
    """Return requests for the first documents of a maker, as many to a request as it may have."""

    def requests_of(block: int) -> list[search_pb2.UpsertRequest]:
        first = block * ROWS_AT_ONCE
        rows = min(ROWS_AT_ONCE, documents - first)
        found = maker.block(block)
        latents, weights = prefix_of(found.codes.latents[:rows], found.codes.weights[:rows], K)
        requests = []
        for part in blocks(rows, DOCUMENTS_PER_REQUEST):
            ids = [f"{first + row:08d}" for row in range(part.start, part.stop)]
            request = search_pb2.UpsertRequest(collection=collection, ids=ids)
            if form == "codes":
                request.codes.CopyFrom(_code_batch(latents[part], weights[part], fingerprint))
            elif found.embeddings is not None:
                request.embeddings.CopyFrom(embeddings_to_proto(found.embeddings[part]))
            requests.append(request)
        return requests

    with ThreadPoolExecutor(THREADS) as pool:
        made_of_blocks = pool.map(requests_of, range(-(-documents // ROWS_AT_ONCE)))
        return [request for requests in made_of_blocks for request in requests]


def searches(
    maker: Clustered, collection: str, form: Form, fingerprint: str, queries: int
) -> list[search_pb2.SearchRequest]:
    """Return that many requests of one query each, for rows that no document is made of."""
    found = made(maker, 1, queries)
    latents, weights = prefix_of(*found.queries, K)
    requests = [search_pb2.SearchRequest(collection=collection, top_n=TOP_N) for _ in range(queries)]
    for row, request in enumerate(requests):
        part = slice(row, row + 1)
        if form == "codes":
            request.codes.CopyFrom(_code_batch(latents[part], weights[part], fingerprint))
        elif found.dense is not None:
            request.embeddings.CopyFrom(embeddings_to_proto(found.dense.queries[part]))
    return requests


def _code_batch(latents: Latents, weights: Floats, fingerprint: str) -> vector_pb2.CodeBatch:
    return codes_to_proto(RaggedCodes.from_padded(latents, weights), fingerprint)
