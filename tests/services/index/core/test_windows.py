"""Many documents: rows behind the first 65,536 of a segment, and many segments at their real size."""

import numpy as np
import pytest

from services.index.core import writer
from services.index.core.where import Range
from tests.services.index.core.checked import CheckedIndex
from tests.services.index.core.data import codes, split

WINDOW = 65_536


@pytest.mark.parametrize(("style", "extra"), [("clustered", 1_000), ("tied", 65), ("uniform", 1)])
def test_segments_longer_than_a_window(style: str, extra: int) -> None:
    """Documents behind the first 65,536 rows of a segment would be lost or mixed up."""
    count = WINDOW + extra
    documents, queries = split(codes(np.random.default_rng(extra), style, count + 3, 128, 8), 3)
    index = CheckedIndex(128, 8, {"rank": "int"})
    names = [f"{row:05d}" for row in range(count)]
    index.upsert(names, documents, [{"rank": row} for row in range(count)])
    index.check(queries, top_n=1000)
    index.delete(names[::7])
    for k in (1, 4, 8):
        index.check(queries, k=k)
    index.check(queries, where=Range("rank", lt=300), k_docs=4)


def test_many_segments_and_a_memtable(tmp_path: object) -> None:
    """The best documents of one segment would hide those of another, or deleted ones would come back."""
    rng = np.random.default_rng(0)
    size = writer.SEAL_ROWS
    count = 5 * size + 700
    documents, queries = split(codes(rng, "clustered", count + 8, 512, 16), 8)
    names = [f"{number}" for number in rng.permutation(count)]
    index = CheckedIndex(512, 16)
    for begin in range(0, count, size + 100):
        rows = slice(begin, begin + size + 100)
        index.upsert(names[rows], documents[rows])
    index.check(queries, threads=(1, 8))
    index.delete([name for name in names if int(name) % 8 == 0])
    index.upsert(names[:300], documents[300:600])
    for k in (1, 8, 16):
        index.check(queries, k=k)
        index.check(queries, top_n=1000, k_docs=k, min_score=0.2)
    loaded = type(index.index)
    index.index.save(f"{tmp_path}/snapshot")
    index.index = loaded.load(f"{tmp_path}/snapshot")
    index.check(queries)
