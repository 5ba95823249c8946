"""Large sets made up block by block, the same for every count: any number of documents is a prefix of more.

`Clustered` is meant to cost an inverted index what codes of the clustered mixture cost that the index was designed on:
Σp² = 0.125, 0.32, 0.76, 2.1, 6.4 at k = 8, 16, 32, 64, 128 and h = 4096; here it is 0.139, 0.316, 0.787, 2.12, 6.39.
`Unclustered` is the worst case for an index that relies on similar documents lying side by side: there are none.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.index_search.codes import K_STORED, Dense, Floats, SearchSet
from benchmarks.index_search.engines import THREADS
from services.index.core import code
from services.index.core.code import Codes

HIDDEN_DIM: Final = 4_096
INPUT_DIM: Final = 768
ROWS_AT_ONCE: Final = 4_096

_BLOCKS_AT_ONCE: Final = 24
_SEED: Final = 0
_QUERIES_FROM: Final = 1 << 32
"""Block numbers of queries, which no document has."""
_GROUPS, _CLUSTERS = 600, 8_000
_OFFSET_IN_GROUP = 1.0
_NOISE, _NOISE_DIM, _NOISE_DECAY = 0.18, 128, 1.0
_USAGE_SPREAD = 0.5
_TAIL_FROM, _TAIL_MEAN = 1.86, 0.42
"""The 128 greatest of 4,096 draws of a standard normal begin at 1.86 and exceed it by 0.42 on average."""


class Made(NamedTuple):
    """ROWS_AT_ONCE rows: codes, and embeddings of unit length unless codes were drawn directly."""

    codes: Codes
    embeddings: Floats | None


class Maker(Protocol):
    """Makes block number so-and-so, always the same."""

    name: str
    about: str

    def block(self, number: int) -> Made:
        """Return one block."""
        ...


class Clustered:
    """Gaussian mixture in groups of clusters, sizes by Zipf's law, encoded by TopK over random directions.

    Attributes:
        dictionary: [INPUT_DIM, HIDDEN_DIM], the directions.
    """

    name = "clustered"
    about = (
        f"{_CLUSTERS:,} clusters in {_GROUPS} groups, sizes ∝ 1/rank, noise with a power-law spectrum, "
        f"d = {INPUT_DIM}; the {K_STORED} largest of {HIDDEN_DIM:,} random projections"
    )

    def __init__(self) -> None:
        random = np.random.default_rng(_SEED)
        groups = _directions(random, _GROUPS)
        group = random.choice(_GROUPS, _CLUSTERS, p=_zipf(_GROUPS))
        self._centres = groups[group] + np.float32(_OFFSET_IN_GROUP) * _directions(random, _CLUSTERS)
        self._sizes = random.permutation(_zipf(_CLUSTERS))
        spectrum = np.arange(1, _NOISE_DIM + 1) ** -_NOISE_DECAY
        scales = _NOISE * spectrum / np.linalg.norm(spectrum)
        self._noise = (_directions(random, _NOISE_DIM) * scales[:, None]).astype(np.float32)
        self.dictionary = _directions(random, HIDDEN_DIM).T
        # A projection of centre plus noise is the sum of both projections, of which there are few.
        self._centre_latents = self._centres @ self.dictionary
        self._noise_latents = self._noise @ self.dictionary

    def block(self, number: int) -> Made:
        """Return one block."""
        random = np.random.default_rng((_SEED, number))
        cluster = random.choice(_CLUSTERS, ROWS_AT_ONCE, p=self._sizes)
        noise = random.standard_normal((ROWS_AT_ONCE, _NOISE_DIM), np.float32)
        embeddings = self._centres[cluster] + noise @ self._noise
        embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
        latents = noise @ self._noise_latents
        latents += self._centre_latents[cluster]
        return Made(_largest(latents), embeddings)


class Unclustered:
    """Latents drawn one by one, a few somewhat more often than others, with weights as flat as a normal's tail."""

    name = "unclustered"
    about = (
        f"{K_STORED} of {HIDDEN_DIM:,} latents drawn at random, log-normal frequencies (σ = {_USAGE_SPREAD}), "
        "weights like the greatest of as many normal draws"
    )

    def __init__(self) -> None:
        spread = np.random.default_rng(_SEED).standard_normal(HIDDEN_DIM)
        shares = np.exp(_USAGE_SPREAD * spread)
        self._shares = (shares / shares.sum()).astype(np.float32)

    def block(self, number: int) -> Made:
        """Return one block."""
        random = np.random.default_rng((_SEED, 1, number))
        # The rows' smallest draws of exponentials with these rates are a draw of latents without replacement.
        waits = random.standard_exponential((ROWS_AT_ONCE, HIDDEN_DIM), np.float32) / self._shares
        latents = np.argpartition(waits, K_STORED, axis=1)[:, :K_STORED]
        order = np.argsort(np.take_along_axis(waits, latents, axis=1), axis=1)
        weights = _TAIL_FROM + _TAIL_MEAN * random.standard_exponential((ROWS_AT_ONCE, K_STORED))
        weights[:, ::-1].sort(axis=1)
        return Made(_stored(np.take_along_axis(latents, order, axis=1), weights), None)


def made(maker: Maker, documents: int, queries: int) -> SearchSet:
    """Return the first documents and queries of a maker."""
    codes, embeddings = _rows(maker, 0, documents)
    asked, asking = _rows(maker, _QUERIES_FROM, queries)
    dense = None if embeddings is None or asking is None else Dense(embeddings, asking)
    return SearchSet(maker.name, maker.about, HIDDEN_DIM, codes, asked, dense)


def code_blocks(maker: Maker, documents: int) -> Iterator[Codes]:
    """Yield the codes of the first documents, some ten thousand at a time, in memory that does not grow."""
    rows = ROWS_AT_ONCE * _BLOCKS_AT_ONCE
    for first in range(0, documents, rows):
        numbers = range(first // ROWS_AT_ONCE, -(-min(first + rows, documents) // ROWS_AT_ONCE))
        with ThreadPoolExecutor(THREADS) as pool:
            parts = list(pool.map(lambda number: maker.block(number).codes, numbers))
        yield Codes(*(np.concatenate(columns)[: documents - first] for columns in zip(*parts, strict=True)))


def _rows(maker: Maker, first_block: int, count: int) -> tuple[Codes, Floats | None]:
    codes = Codes(np.empty((count, K_STORED), np.uint16), np.empty((count, K_STORED), np.uint16))
    embeddings = np.empty((count, INPUT_DIM), np.float32) if maker.block(first_block).embeddings is not None else None

    def fill(number: int) -> None:
        start, end = number * ROWS_AT_ONCE, min((number + 1) * ROWS_AT_ONCE, count)
        found = maker.block(first_block + number)
        codes.latents[start:end] = found.codes.latents[: end - start]
        codes.weights[start:end] = found.codes.weights[: end - start]
        if embeddings is not None and found.embeddings is not None:
            embeddings[start:end] = found.embeddings[: end - start]

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(fill, range(-(-count // ROWS_AT_ONCE))))
    return codes, embeddings


def _largest(latents: Floats) -> Codes:
    """Return each row's K_STORED largest values and where they are."""
    chosen = np.argpartition(latents, -K_STORED, axis=1)[:, -K_STORED:]
    values = np.maximum(np.take_along_axis(latents, chosen, axis=1), 0)
    order = np.argsort(-values, axis=1)
    return _stored(np.take_along_axis(chosen, order, axis=1), np.take_along_axis(values, order, axis=1))


def _stored(latents: NDArray[np.int64], weights: NDArray[Any]) -> Codes:
    return code.quantise(latents, weights.astype(np.float32), hidden_dim=HIDDEN_DIM, active_max=K_STORED)


def _directions(random: np.random.Generator, count: int) -> Floats:
    rows = random.standard_normal((count, INPUT_DIM), np.float32)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def _zipf(count: int) -> NDArray[np.float64]:
    shares = 1 / np.arange(1, count + 1)
    return np.asarray(shares / shares.sum(), np.float64)
