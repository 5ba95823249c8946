"""Codes and queries that a run draws from, known by their numbers, with every score computed beforehand. Pure."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from services.client import Codes
from tests.services.index.core import oracle

HIDDEN_DIM = 64
K_MAX = 8
FINGERPRINT = "cd" * 16


class Corpus:
    """Random codes of K_MAX latents with few distinct weights, so that equal scores are common.

    Attributes:
        latents: uint16 [codes, K_MAX], as they are sent.
        weights: float32 [codes, K_MAX].
        stored: Each code as it must be stored.
        scores: float64 [queries, codes], exactly as docs/architecture.md defines them; the queries are `asked`.
    """

    def __init__(self, seed: int, codes: int = 2_000, queries: int = 24) -> None:
        rng = np.random.default_rng(seed)
        self.latents, self.weights = _random_codes(rng, codes)
        self.stored = _stored(self.latents, self.weights)
        self.asked_latents, self.asked_weights = _random_codes(rng, queries)
        self.asked = _stored(self.asked_latents, self.asked_weights)
        self.scores = _scores(self.asked, self.stored)

    def codes(self, numbers: Sequence[int]) -> Codes:
        """Return codes as a client sends them."""
        return Codes(self.latents[numbers], self.weights[numbers], FINGERPRINT)

    def queries(self, numbers: Sequence[int]) -> Codes:
        """Return queries as a client sends them."""
        return Codes(self.asked_latents[numbers], self.asked_weights[numbers], FINGERPRINT)


def _random_codes(rng: np.random.Generator, rows: int) -> tuple[NDArray[np.uint16], NDArray[np.float32]]:
    chosen = rng.permuted(np.tile(np.arange(HIDDEN_DIM), (rows, 1)), axis=1)[:, :K_MAX]
    weights = -np.sort(-rng.integers(1, 5, (rows, K_MAX)), axis=1)
    return chosen.astype(np.uint16), weights.astype(np.float32)


def _stored(latents: NDArray[np.uint16], weights: NDArray[np.float32]) -> list[oracle.Code]:
    return [oracle.stored_code(*row) for row in zip(latents.tolist(), weights.tolist(), strict=True)]


def _scores(queries: Sequence[oracle.Code], documents: Sequence[oracle.Code]) -> NDArray[np.float64]:
    asked, known = _dense(queries), _dense(documents)
    squares = np.sum(asked**2, axis=1).astype(np.float64)[:, None] * np.sum(known**2, axis=1).astype(np.float64)
    scores: NDArray[np.float64] = (asked @ known.T) / np.sqrt(squares)
    return scores


def _dense(codes: Sequence[oracle.Code]) -> NDArray[np.int64]:
    rows = np.zeros((len(codes), HIDDEN_DIM), np.int64)
    for row, code in enumerate(codes):
        for latent, weight in code:
            rows[row, latent] = weight
    return rows
