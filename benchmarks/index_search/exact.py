"""Other exact engines: scipy's sparse product, qdrant-edge, and dense search of the embeddings."""

import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import sparse
from threadpoolctl import threadpool_limits

from benchmarks.index_search.codes import TOP_N, Cut, Dense, Floats, RowNumbers, blocks, flat
from benchmarks.index_search.engines import THREADS, AnswerAll, Engine, over_threads, package

SCIPY = "scipy CSR·CSC"
QDRANT = "qdrant-edge"
NUMPY = "numpy, dense"
FAISS_FLAT = "faiss flat, dense"
_POINTS_PER_CALL = 10_000


def scipy_product(cut: Cut) -> list[Engine]:
    """Multiply a sparse row with the documents, latent by latent, and select."""
    started = time.perf_counter()
    offsets, latents, weights = flat(cut.latents, cut.weights)
    documents = sparse.csr_array((weights, latents, offsets), shape=(len(cut), cut.hidden_dim)).tocsc().T
    seconds = time.perf_counter() - started
    asked = _rows_of(cut)

    def answer(query: int) -> Any:
        product = asked[query] @ documents
        return _best(product.indices, product.data)

    def answer_share(queries: RowNumbers) -> list[RowNumbers]:
        product = sparse.vstack([asked[query] for query in queries], format="csr") @ documents
        edges = zip(product.indptr[:-1], product.indptr[1:], strict=True)
        return [_best(product.indices[start:end], product.data[start:end]) for start, end in edges]

    held = documents.data.nbytes + documents.indices.nbytes + documents.indptr.nbytes
    share = over_threads(_in_steps(answer_share, 16))
    return [Engine(SCIPY, "codes", True, answer, list, share, seconds, held, lambda: "float32")]


def qdrant_edge(cut: Cut) -> list[Engine]:
    """Ask a shard of qdrant-edge: its index in memory, one segment.

    Raises:
        NotInstalled: the package is missing.
    """
    qdrant = package("qdrant_edge", "qdrant-edge-py")
    folder = tempfile.TemporaryDirectory(prefix="qdrant-edge-")
    documents = flat(cut.latents, cut.weights)
    started = time.perf_counter()
    optimizers = qdrant.EdgeOptimizersConfig(default_segment_number=1, max_segment_size=1 << 30, indexing_threshold=1)
    config = qdrant.EdgeConfig(
        sparse_vectors={"code": qdrant.EdgeSparseVectorParams()},
        optimizers=optimizers,
        wal_enabled=False,
        max_search_threads=THREADS,
    )
    shard = qdrant.EdgeShard.create(folder.name, config)
    for block in blocks(len(cut), _POINTS_PER_CALL):
        rows = range(block.start, block.stop)
        points = [qdrant.Point(row, {"code": _vector(qdrant, documents, row)}) for row in rows]
        shard.update(qdrant.UpdateOperation.upsert_points(points))
    shard.optimize()
    seconds = time.perf_counter() - started
    queries = flat(cut.query_latents, cut.query_weights)
    requests = [
        qdrant.QueryRequest(TOP_N, query=qdrant.Query.Nearest(_vector(qdrant, queries, row), using="code"))
        for row in range(len(cut.query_latents))
    ]

    def close() -> None:
        shard.close()
        folder.cleanup()

    return [
        Engine(
            name=QDRANT,
            searches="codes",
            exact=True,
            answer=lambda query: shard.query(requests[query]),
            rows=lambda points: [point.id for point in points],
            answer_all=over_threads(lambda queries: [shard.query(requests[query]) for query in queries]),
            build_seconds=seconds,
            bytes=None,
            settings=lambda: f"{shard.info().segments_count} segment(s), float32, no log",
            close=close,
        )
    ]


def dense_product(cut: Cut) -> list[Engine]:
    """Multiply the embeddings with the query's and select; BLAS on one thread, or all for many queries."""
    dense = _dense_of(cut)

    def answer(query: int) -> Any:
        scores = dense.documents @ dense.queries[query]
        return _best(None, scores)

    def answer_all(queries: RowNumbers, threads: int) -> object:
        def share(some: RowNumbers) -> list[RowNumbers]:
            return [_best(None, scores) for scores in dense.queries[some] @ dense.documents.T]

        with threadpool_limits(threads, user_api="blas"):
            return _in_steps(share, 32)(queries)

    return [_over_embeddings(NUMPY, dense, answer, answer_all)]


def faiss_flat(cut: Cut) -> list[Engine]:
    """Search the embeddings with faiss, by brute force, without copying them.

    Raises:
        NotInstalled: the package is missing.
    """
    faiss, dense = package("faiss", "faiss-cpu"), _dense_of(cut)

    def answer(query: int) -> Any:
        return _faiss_search(dense.queries[query : query + 1])[0]

    def _faiss_search(queries: Floats) -> Any:
        return faiss.knn(queries, dense.documents, TOP_N, metric=faiss.METRIC_INNER_PRODUCT)[1]

    def answer_all(queries: RowNumbers, threads: int) -> object:
        faiss.omp_set_num_threads(threads)
        try:
            return _faiss_search(dense.queries[queries])
        finally:
            faiss.omp_set_num_threads(1)

    faiss.omp_set_num_threads(1)
    return [_over_embeddings(FAISS_FLAT, dense, answer, answer_all)]


def _dense_of(cut: Cut) -> Dense:
    assert cut.dense is not None
    return cut.dense


def _over_embeddings(name: str, dense: Dense, answer: Callable[[int], Any], answer_all: AnswerAll) -> Engine:
    """Return an engine for which nothing is built."""
    size = f"d = {dense.documents.shape[1]}, float32"
    return Engine(name, "embeddings", True, answer, list, answer_all, 0.0, dense.documents.nbytes, lambda: size)


def _rows_of(cut: Cut) -> list[Any]:
    offsets, latents, weights = flat(cut.query_latents, cut.query_weights)
    matrix = sparse.csr_array((weights, latents, offsets), shape=(len(offsets) - 1, cut.hidden_dim))
    return [matrix[[row]] for row in range(matrix.shape[0])]


def _vector(qdrant: Any, codes: Any, row: int) -> Any:
    place = slice(codes.offsets[row], codes.offsets[row + 1])
    return qdrant.SparseVector(codes.latents[place].tolist(), codes.weights[place].tolist())


def _best(rows: Any, scores: Any) -> Any:
    """Return the rows of the best scores, best first; `rows` None numbers them."""
    if len(scores) > TOP_N:
        chosen = np.argpartition(scores, -TOP_N)[-TOP_N:]
        chosen = chosen[np.argsort(-scores[chosen])]
    else:
        chosen = np.argsort(-scores)
    return chosen if rows is None else rows[chosen]


def _in_steps(work: Any, size: int) -> Any:
    """Return what does `work` for `size` queries at a time, so that products stay small."""
    return lambda queries: [work(queries[start : start + size]) for start in range(0, len(queries), size)]
