"""The fast oracle against the plain one: what judges the index must itself be right."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from services.index.core import code
from tests.services.index.core import oracle
from tests.services.index.core.data import STYLES, codes, split


@given(
    seed=st.integers(0, 1 << 32),
    style=st.sampled_from(STYLES),
    k=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    top_n=st.sampled_from([1, 3, 1000]),
    min_score=st.sampled_from([-1.0, 0.3, 1.0]),
)
def test_the_fast_oracle_is_the_plain_one(
    seed: int, style: str, k: tuple[int, int], top_n: int, min_score: float
) -> None:
    """An index could be wrong on many documents and still pass every test with many documents."""
    rng = np.random.default_rng(seed)
    documents, queries = split(codes(rng, style, 42, 40, 16), 2)
    names = [f"{number}" for number in rng.permutation(40)]
    stored = code.quantise(documents.latents, documents.weights, hidden_dim=40, active_max=16)
    table = oracle.Table(names, stored.latents.astype(np.int64), stored.weights.astype(np.int64))
    allowed = rng.random(40) < 0.7
    plain = {
        name: oracle.Document(oracle.stored_code(documents.latents[row], documents.weights[row]))
        for row, name in enumerate(names)
        if allowed[row]
    }
    for latents, weights in zip(queries.latents, queries.weights, strict=True):
        query = oracle.stored_code(latents, weights)
        expected = oracle.search(plain, query, top_n, *k, min_score)
        assert table.search(query, top_n, *k, min_score, allowed) == expected
