"""Approximate engines: kANNolo and Seismic over the codes, faiss HNSW over the embeddings."""

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarks.index_search.codes import TOP_N, Cut, Flat, RowNumbers, flat
from benchmarks.index_search.engines import THREADS, Engine, package

KANNOLO = "kANNolo HNSW"
SEISMIC = "Seismic"
FAISS_HNSW = "faiss HNSW, dense"
KANNOLO_EF = (40, 300)
SEISMIC_CUTS = (5, 10)
FAISS_EF = 64
_SEISMIC_POSTINGS = 4_000
_SEISMIC_HEAP_FACTOR = 0.8
_NEIGHBOURS = 16
_EF_CONSTRUCTION = 100


def kannolo(cut: Cut) -> list[Engine]:
    """Search a graph of the codes, with a short and a long candidate list.

    Raises:
        NotInstalled: the package is missing.
    """
    module = package("kannolo", "kannolo")
    documents, queries = flat(cut.latents, cut.weights), flat(cut.query_latents, cut.query_weights)
    started = time.perf_counter()
    with _quiet():
        index = module.SparsePlainHNSW.build_from_arrays(
            documents.latents, documents.weights, documents.offsets, m=_NEIGHBOURS, ef_construction=_EF_CONSTRUCTION
        )
    seconds = time.perf_counter() - started

    def with_candidates(ef: int) -> Engine:
        def answer_all(chosen: RowNumbers, threads: int) -> object:
            some = _chosen(queries, chosen)
            asked = some.latents, some.weights, some.offsets
            return index.batch_search(*asked, TOP_N, ef_search=ef, num_threads=threads)

        return Engine(
            name=f"{KANNOLO}, ef {ef}",
            searches="codes",
            exact=False,
            answer=lambda query: index.search(*_one(queries, query), TOP_N, ef_search=ef),
            rows=lambda answer: list(answer[1]),
            answer_all=answer_all,
            build_seconds=seconds,
            bytes=index.space_usage_bytes(),
            settings=lambda: f"m {_NEIGHBOURS}, ef {_EF_CONSTRUCTION} for construction",
        )

    return [with_candidates(ef) for ef in KANNOLO_EF]


def seismic(cut: Cut) -> list[Engine]:
    """Search Seismic's clustered posting lists, with few and with more latents of the query.

    Raises:
        NotInstalled: the package is missing.
    """
    module = package("seismic", "pyseismic-lsr")
    documents, queries = flat(cut.latents, cut.weights), flat(cut.query_latents, cut.query_weights)
    folder = tempfile.TemporaryDirectory(prefix="seismic-")
    file, asked = Path(folder.name) / "documents.bin", Path(folder.name) / "queries.bin"
    _write_seismic(file, documents)
    started = time.perf_counter()
    with _quiet():
        index = module.SeismicIndexRaw.build(str(file), n_postings=_SEISMIC_POSTINGS)
    seconds = time.perf_counter() - started
    with _quiet():
        index.save(str(Path(folder.name) / "index"))
    held = sum(path.stat().st_size for path in Path(folder.name).glob("index*"))

    def with_latents(count: int) -> Engine:
        def answer_all(chosen: RowNumbers, threads: int) -> object:
            _write_seismic(asked, _chosen(queries, chosen))
            return index.batch_search(str(asked), TOP_N, count, _SEISMIC_HEAP_FACTOR, 0, True, threads)

        return Engine(
            name=f"{SEISMIC}, {count} latents",
            searches="codes",
            exact=False,
            answer=lambda query: index.search(*_one(queries, query), TOP_N, count, _SEISMIC_HEAP_FACTOR, 0, True),
            rows=lambda answer: [row for _, row in answer],
            answer_all=answer_all,
            build_seconds=seconds,
            bytes=held,
            settings=lambda: f"{_SEISMIC_POSTINGS} postings, heap factor {_SEISMIC_HEAP_FACTOR}",
            close=folder.cleanup,
        )

    return [with_latents(count) for count in SEISMIC_CUTS]


def faiss_hnsw(cut: Cut) -> list[Engine]:
    """Search a graph of the embeddings.

    Raises:
        NotInstalled: the package is missing.
    """
    faiss = package("faiss", "faiss-cpu")
    assert cut.dense is not None
    documents, queries = cut.dense
    started = time.perf_counter()
    faiss.omp_set_num_threads(THREADS)
    index = faiss.IndexHNSWFlat(documents.shape[1], _NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = _EF_CONSTRUCTION
    index.add(documents)
    seconds = time.perf_counter() - started
    index.hnsw.efSearch = FAISS_EF
    faiss.omp_set_num_threads(1)

    def answer_all(chosen: RowNumbers, threads: int) -> object:
        faiss.omp_set_num_threads(threads)
        try:
            return index.search(queries[chosen], TOP_N)
        finally:
            faiss.omp_set_num_threads(1)

    return [
        Engine(
            name=FAISS_HNSW,
            searches="embeddings",
            exact=False,
            answer=lambda query: index.search(queries[query : query + 1], TOP_N)[1][0],
            rows=list,
            answer_all=answer_all,
            build_seconds=seconds,
            bytes=documents.nbytes + 4 * index.hnsw.neighbors.size(),
            settings=lambda: f"m {_NEIGHBOURS}, ef {FAISS_EF}, {_EF_CONSTRUCTION} for construction",
        )
    ]


def _one(queries: Flat, query: int) -> tuple[RowNumbers, RowNumbers]:
    place = slice(queries.offsets[query], queries.offsets[query + 1])
    return queries.latents[place], queries.weights[place]  # type: ignore[return-value]


def _chosen(queries: Flat, chosen: RowNumbers) -> Flat:
    parts = [_one(queries, query) for query in chosen.tolist()]
    offsets = np.concatenate([[0], np.cumsum([len(latents) for latents, _ in parts])]).astype(np.int64)
    return Flat(offsets, np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts]))


def _write_seismic(path: Path, codes: Flat) -> None:
    """Write Seismic's own format: the number of rows; then each row's length, latents, and weights as float32."""
    counts = np.diff(codes.offsets)
    words = np.empty(1 + len(counts) + 2 * len(codes.latents), np.uint32)
    words[0] = len(counts)
    heads = 1 + np.arange(len(counts)) + 2 * codes.offsets[:-1]
    words[heads] = counts
    places = np.repeat(heads + 1 - codes.offsets[:-1], counts) + np.arange(len(codes.latents))
    words[places] = codes.latents
    words[places + np.repeat(counts, counts)] = codes.weights.view(np.uint32)
    words.tofile(path)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep a library from writing to standard output past Python."""
    sys.stdout.flush()
    kept = os.dup(1)
    with Path(os.devnull).open("w") as nothing:
        os.dup2(nothing.fileno(), 1)
        try:
            yield
        finally:
            os.dup2(kept, 1)
            os.close(kept)
