from collections.abc import Sequence
from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from services.router.merge import merge


class Answer(NamedTuple):
    ids: Sequence[str]
    scores: Sequence[float]


def answer_of(documents: dict[str, float], top_n: int) -> Answer:
    """The best top_n of one server, sorted by UTF-8 bytes as the index does."""
    best = sorted(documents.items(), key=lambda item: (-item[1], item[0].encode()))[:top_n]
    return Answer([id for id, _ in best], [score for _, score in best])


@given(
    documents=st.dictionaries(st.text(max_size=4), st.sampled_from([0.1, 0.25, 0.5, 1.0]), max_size=60),
    servers=st.integers(1, 7),
    top_n=st.integers(1, 20),
    data=st.data(),
)
def test_many_servers_answer_as_one(documents: dict[str, float], servers: int, top_n: int, data: st.DataObject) -> None:
    """Users would get other hits, or another order among ties, after a server was added."""
    shares: list[dict[str, float]] = [{} for _ in range(servers)]
    for id, score in documents.items():
        shares[data.draw(st.integers(0, servers - 1))][id] = score
    merged = merge((answer_of(share, top_n) for share in shares), top_n)
    whole = answer_of(documents, top_n)
    assert [(hit.id, hit.score) for hit in merged] == list(zip(whole.ids, whole.scores, strict=True))


def test_ties_are_ordered_by_the_bytes_of_ids() -> None:
    """Pages of equal scores would differ between router and index server."""
    ids = ["b", "\U0001f600", "é", "a", "\uffff"]
    merged = merge([Answer(ids, [0.5] * len(ids))], 10)
    assert [hit.id for hit in merged] == sorted(ids, key=str.encode)


def test_no_hits_are_no_hits() -> None:
    """A query that matches nothing would fail instead of returning an empty list."""
    assert merge([Answer([], []), Answer([], [])], 5) == []
