import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from numpy.typing import NDArray

from orchestration.data.files import FileInvalid, read_embeddings

ROWS = np.arange(1, 13, dtype=np.float32).reshape(4, 3)


def npy(folder: Path, array: NDArray[Any]) -> Path:
    """Save an array."""
    np.save(folder / "own.npy", array)
    return folder / "own.npy"


def table(folder: Path, **columns: Any) -> Path:
    """Save columns; the embedding is ROWS unless given."""
    parquet.write_table(pa.table({"embedding": list(ROWS), **columns}), folder / "own.parquet", row_group_size=3)
    return folder / "own.parquet"


def test_float32_stays_on_disk(tmp_path: Path) -> None:
    """A file larger than memory could not be used."""
    split = read_embeddings(npy(tmp_path, ROWS))
    assert isinstance(split.embeddings, np.memmap)
    np.testing.assert_array_equal(split.embeddings, ROWS)
    assert (split.ids, split.labels, split.texts) == (["0", "1", "2", "3"], None, [""] * 4)


@pytest.mark.parametrize("kind", ["<f2", "<f8", ">f4"])
def test_other_floats_are_the_same_data(tmp_path: Path, kind: str) -> None:
    """The digest of a model's data would depend on how a file was saved."""
    known = read_embeddings(npy(tmp_path, ROWS)).digest
    assert read_embeddings(npy(tmp_path, ROWS.astype(kind))).digest == known
    assert read_embeddings(npy(tmp_path, np.asfortranarray(ROWS))).digest == known


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.float32()), pa.large_list(pa.float64()), pa.list_(pa.float16(), 3)], ids=str
)
def test_parquet_brings_ids_labels_and_texts(tmp_path: Path, kind: pa.DataType) -> None:
    """Rows would lose their names, or get the labels of others."""
    column = pa.array(ROWS.astype(kind.value_type.to_pandas_dtype()).tolist(), kind)
    path = table(tmp_path, embedding=column, id=[7, 8, 5, 6], label=["b", "a", "b", "c"], text=["u", "v", "w", ""])
    split = read_embeddings(path)
    np.testing.assert_array_equal(split.embeddings, ROWS)
    assert split.ids == ["7", "8", "5", "6"]
    assert split.labels is not None
    assert [split.label_names[label] for label in split.labels] == ["b", "a", "b", "c"]
    assert split.texts == ["u", "v", "w", ""]


def test_numbers_as_labels_keep_their_order(tmp_path: Path) -> None:
    """Label 10 would come before label 9."""
    split = read_embeddings(table(tmp_path, label=[10, 9, 10, 2]))
    assert split.label_names == ["2", "9", "10"]
    assert split.labels is not None
    assert split.labels.tolist() == [2, 1, 2, 0]


BROKEN = np.where(np.arange(4)[:, None] == 2, np.nan, ROWS)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (BROKEN, "column embedding: row 2 is zero or not finite"),
        (np.vstack([ROWS, np.zeros(3)]), "column embedding: row 4 is zero or not finite"),
        (ROWS.astype(np.float64) * 1e300, "column embedding: row 0 is zero or not finite"),
        (ROWS[0], r"its shape is \[3\], not \[rows, dimensions\]"),
        (ROWS[:0], r"its shape is \[0, 3\], not"),
        (ROWS.astype(int), "it holds int64, not floats"),
        (ROWS.astype(object), "it cannot be read as a .npy of numbers"),
    ],
    ids=["nan", "zero", "overflow", "one axis", "empty", "integers", "objects"],
)
def test_an_array_that_cannot_be_used(tmp_path: Path, array: NDArray[Any], message: str) -> None:
    """A bad row would surface hours later as a loss that is not a number."""
    with pytest.raises(FileInvalid, match=r"own\.npy: " + message):
        read_embeddings(npy(tmp_path, array))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"embedding": [[1.0, 2.0]] * 3 + [[1.0]]}, "column embedding: row 3 has 1 numbers, row 0 has 2"),
        ({"embedding": [[1.0], None, [1.0], [2.0]]}, "column embedding: row 1 is null"),
        ({"embedding": [[1.0], [1.0], [None], [2.0]]}, "column embedding: row 2 is zero or not finite"),
        ({"embedding": [[], [], [], []]}, "column embedding: it holds list<.*null>, not lists of floats"),
        ({"embedding": [1.0, 2.0, 3.0, 4.0]}, "column embedding: it holds double, not lists of floats"),
        ({"id": ["a", "b", "a", "c"]}, "column id: row 2 has the id of row 0, 'a'"),
        ({"id": ["a", "b", None, "c"]}, "column id: row 2 is null"),
        ({"id": [0.5, 1.0, 2.0, 3.0]}, "column id: it holds double, not strings or integers"),
        ({"label": [1, 2, 3, None]}, "column label: row 3 is null"),
    ],
    ids=["ragged", "null row", "null number", "no numbers", "no lists", "id twice", "no id", "id type", "no label"],
)
def test_a_table_that_cannot_be_used(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    """A user could not find the row that is wrong."""
    with pytest.raises(FileInvalid, match=r"own\.parquet: " + message):
        read_embeddings(table(tmp_path, **columns))


def test_what_only_has_the_name_of_an_array_is_never_unpickled(tmp_path: Path) -> None:
    """People would be told to run what a stranger's file says, or see a traceback."""
    wrong = tmp_path / "wrong.npy"
    for contents in (b"", b"id,embedding\n" * 20, pickle.dumps({"embedding": ROWS.tolist()})):
        wrong.write_bytes(contents)
        with pytest.raises(FileInvalid, match=r"wrong\.npy: it cannot be read as a \.npy") as refused:
            read_embeddings(wrong)
        assert "pickle" not in str(refused.value)
    np.savez(tmp_path / "many", ROWS)
    with pytest.raises(FileInvalid, match=r"it cannot be read as a \.npy"):
        read_embeddings((tmp_path / "many.npz").rename(wrong))


def test_missing_files_and_columns_are_named(tmp_path: Path) -> None:
    """A typo would end in a traceback."""
    with pytest.raises(FileInvalid, match=r"none\.npy: there is no such file"):
        read_embeddings(tmp_path / "none.npy")
    with pytest.raises(FileInvalid, match=r"none\.parquet: there is no such file"):
        read_embeddings(tmp_path / "none.parquet")
    with pytest.raises(FileInvalid, match=r"own\.csv: embeddings come as \.npy or \.parquet"):
        read_embeddings(tmp_path / "own.csv")
    (tmp_path / "text.parquet").write_text("id,embedding")
    with pytest.raises(FileInvalid, match=r"it cannot be read as a \.parquet"):
        read_embeddings(tmp_path / "text.parquet")
    parquet.write_table(pa.table({"vector": list(ROWS)}), tmp_path / "other.parquet")
    with pytest.raises(FileInvalid, match="column embedding: it is missing; there are: vector"):
        read_embeddings(tmp_path / "other.parquet")
