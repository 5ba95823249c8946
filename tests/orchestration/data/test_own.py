from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from numpy.typing import NDArray

from orchestration.data.files import FileInvalid
from orchestration.data.own import load_file

Rows = NDArray[np.float32]


@pytest.fixture
def rows() -> Rows:
    """[60, 4]; the first number of a row tells it from all others."""
    embeddings = np.ones((60, 4), dtype=np.float32)
    embeddings[:, 0] = np.arange(60)
    return embeddings


def save(folder: Path, name: str, array: NDArray[Any]) -> Path:
    """Save an array."""
    np.save(folder / name, array)
    return folder / name


def numbers(embeddings: Rows) -> list[int]:
    """Return which rows of the file these are."""
    return [int(first) for first in embeddings[:, 0]]


def test_a_tenth_of_the_rows_asks_and_is_not_learned_from(rows: Rows, tmp_path: Path) -> None:
    """Quality would be measured on training rows, or on other rows in every run."""
    path = save(tmp_path, "own.npy", rows)
    data = load_file(path)
    assert (data.name, data.pairs, data.relevant) == ("own", None, None)
    assert len(data.queries.ids) == 6
    assert data.documents is data.train
    assert sorted(numbers(data.train.embeddings) + numbers(data.queries.embeddings)) == list(range(60))
    assert load_file(path).digest == data.digest


def test_with_a_file_of_queries_nothing_is_copied(rows: Rows, tmp_path: Path) -> None:
    """Data sets larger than memory could not be trained on."""
    data = load_file(save(tmp_path, "own.npy", rows), queries=save(tmp_path, "asked.npy", rows[:7] + 1))
    assert isinstance(data.train.embeddings, np.memmap)
    assert len(data.train.ids) == 60
    assert numbers(data.queries.embeddings) == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("kind", ["rows", "ids"])
def test_pairs_are_held_out_with_their_queries(rows: Rows, tmp_path: Path, kind: str) -> None:
    """Test queries would be trained on, or judged by the documents of others."""
    known = np.array([(row, 30 + row) for row in range(30)] + [(0, 31)])  # row r belongs to row 30 + r
    names = [f"id-{row}" for row in range(60)]
    parquet.write_table(pa.table({"id": names, "embedding": list(rows)}), tmp_path / "own.parquet")
    if kind == "rows":
        pairs = save(tmp_path, "pairs.npy", known)
    else:
        pairs = tmp_path / "pairs.parquet"
        queries, documents = ([names[row] for row in column] for column in known.T)
        parquet.write_table(pa.table({"query": queries, "document": documents}), pairs)
    data = load_file(tmp_path / "own.parquet", pairs=pairs)
    assert data.pairs is not None
    assert data.relevant is not None
    train, asked, searched = (numbers(part.embeddings) for part in (data.train, data.queries, data.documents))
    learned = [(train[query], train[document]) for query, document in data.pairs.tolist()]
    judged = [(asked[query], searched[document]) for query, document in data.relevant.tolist()]
    assert sorted(learned + judged) == sorted(map(tuple, known.tolist()))
    assert len(asked) == 3
    assert set(asked) == {query for query, _ in judged}
    assert not set(asked) & set(train)
    assert searched == list(range(30, 60))


def test_labels_of_both_files_are_numbered_alike(rows: Rows, tmp_path: Path) -> None:
    """Accuracy would compare labels that mean different things."""
    own, asked = tmp_path / "own.parquet", tmp_path / "asked.parquet"
    parquet.write_table(pa.table({"embedding": list(rows[:3]), "label": ["b", "a", "c"]}), own)
    parquet.write_table(pa.table({"embedding": list(rows[:2]), "label": ["c", "b"]}), asked)
    data = load_file(own, queries=asked)
    assert data.queries.labels is not None
    assert [data.train.label_names[label] for label in data.queries.labels] == ["c", "b"]
    parquet.write_table(pa.table({"embedding": list(rows[:2]), "label": ["c", "z"]}), asked)
    with pytest.raises(FileInvalid, match=r"asked\.parquet: column label: .*own\.parquet has no label 'z'"):
        load_file(own, queries=asked)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (np.array([[0, 1], [2, 60]]), r"column document: row 1 is 60; .*own\.npy has rows 0 … 59"),
        (np.array([[-1, 1]]), "column query: row 0 is -1"),
        (np.array([[0.0, 1.0]]), r"it holds float64 \[1, 2\], not integers \[pairs, 2\]"),
        (np.array([0, 1]), r"it holds int64 \[2\], not integers"),
        (np.zeros((0, 2), int), "it has no rows"),
        (np.array([[0, 1]] * 20), "fewer than 10 rows ask; give a file of queries"),
        (np.array([[row, row] for row in range(20)]), "test queries leave no pair to judge by"),
        (np.array([[0, 2**64 - 1]], np.uint64), "column document: row 0 is 18446744073709551615"),
    ],
    ids=["too large", "negative", "floats", "one axis", "none", "few", "with themselves", "beyond int64"],
)
def test_pairs_that_cannot_be_used(rows: Rows, tmp_path: Path, pairs: NDArray[Any], message: str) -> None:
    """Pairs out of range would join wrong rows, or end in a traceback."""
    own = save(tmp_path, "own.npy", rows)
    with pytest.raises(FileInvalid, match=r"pairs\.npy: " + message):
        load_file(own, pairs=save(tmp_path, "pairs.npy", pairs))


def test_files_that_do_not_fit_together_are_named(rows: Rows, tmp_path: Path) -> None:
    """A mix-up of files would end in a traceback of numpy."""
    own = save(tmp_path, "own.npy", rows)
    with pytest.raises(FileInvalid, match=r"asked\.npy: column embedding: it has 3 dimensions, .*own\.npy has 4"):
        load_file(own, queries=save(tmp_path, "asked.npy", rows[:, :3] + 1))
    parquet.write_table(pa.table({"query": ["0", "x"], "document": ["1", "1"]}), tmp_path / "pairs.parquet")
    with pytest.raises(FileInvalid, match=r"column query: row 1 is 'x', an id that .*own\.npy does not have"):
        load_file(own, pairs=tmp_path / "pairs.parquet")
    with pytest.raises(FileInvalid, match=r"pairs\.csv: pairs come as \.npy or \.parquet"):
        load_file(own, pairs=tmp_path / "pairs.csv")
    with pytest.raises(FileInvalid, match=r"few\.npy: fewer than 10 rows ask"):
        load_file(save(tmp_path, "few.npy", rows[1:6]))
