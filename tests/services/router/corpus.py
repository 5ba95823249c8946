"""Random codes, and the right answers to searches over them."""

from collections.abc import Mapping, Sequence

import numpy as np

from services.client import Client, Codes, SearchResult
from tests.services.index.core import oracle

FINGERPRINT = "ab" * 16
HIDDEN_DIM = 64
K_MAX = 8


def random_codes(rows: int, seed: int, width: int = K_MAX) -> Codes:
    """Return codes with few distinct weights, so that ties are common, and of different lengths."""
    random = np.random.default_rng(seed)
    latents = np.zeros((rows, width), np.uint16)
    weights = np.zeros((rows, width), np.float32)
    for row in range(rows):
        length = int(random.integers(1, width + 1))
        chosen = random.choice(HIDDEN_DIM, length, replace=False)
        drawn = random.integers(1, 5, length)
        order = np.lexsort((chosen, -drawn))
        latents[row, :length], weights[row, :length] = chosen[order], drawn[order]
    return Codes(latents, weights, FINGERPRINT)


def documents(ids: Sequence[str], codes: Codes) -> dict[str, oracle.Document]:
    """Return the oracle's view of stored codes."""
    rows = zip(ids, codes.latents.tolist(), codes.weights.tolist(), strict=True)
    return {id: oracle.Document(oracle.stored_code(latents, weights)) for id, latents, weights in rows}


def expected(
    stored: Mapping[str, oracle.Document],
    queries: Codes,
    top_n: int,
    k_query: int = 256,
    k_docs: int = 256,
    min_score: float = 0.0,
) -> list[list[tuple[str, float]]]:
    """Return the right answer, by brute force over integers."""
    return [
        oracle.search(stored, oracle.stored_code(latents, weights), top_n, k_query, k_docs, min_score)
        for latents, weights in zip(queries.latents.tolist(), queries.weights.tolist(), strict=True)
    ]


def found(result: SearchResult) -> list[list[tuple[str, float]]]:
    """Return ids and scores of an answer."""
    return [[(hit.id, hit.score) for hit in hits] for hits in result.hits]


def create_codes_collection(client: Client, name: str, **changes: object) -> None:
    """Create a collection of kind codes for random_codes."""
    settings = {"kind": "codes", "fingerprint": FINGERPRINT, "hidden_dim": HIDDEN_DIM, "k_max": K_MAX, "partitions": 4}
    client.create_collection(name, "adapter", **{**settings, **changes})  # type: ignore[arg-type]
