"""Data that do not fit into memory, from .parquet through Ray Data and from folders of the library datasets."""

from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import ray

from orchestration import train_source
from orchestration.data.files import FileInvalid, read_embeddings
from orchestration.data.sets import EmbeddedSet
from orchestration.train_files import training_rows, write_rows
from orchestration.train_source import stream_set, training_data
from tests.support.ray_cluster import RayCluster

ROWS, DIM = 20_000, 8


def table(start: int = 0, stop: int = ROWS) -> pa.Table:
    """Return rows whose first number is their own, with ids and labels."""
    numbers = np.arange(start, stop)
    embeddings = np.random.default_rng(0).normal(size=(ROWS, DIM)).astype(np.float32)[start:stop]
    embeddings[:, 0] = numbers
    lists = pa.FixedSizeListArray.from_arrays(pa.array(embeddings.reshape(-1)), DIM)
    columns = {
        "id": [f"r{row}" for row in numbers],
        "label": [f"c{row % 3}" for row in numbers],
        "text": ["x"] * len(numbers),
    }
    return pa.table({"embedding": lists, **columns})


def save_as_datasets(folder: Path) -> None:
    """Write what `Dataset.save_to_disk` of the library datasets writes: Arrow streams and descriptions."""
    folder.mkdir()
    for part, (start, stop) in enumerate(((0, 9_000), (9_000, ROWS))):
        rows = table(start, stop)
        with (
            pa.OSFile(str(folder / f"data-{part:05}-of-00002.arrow"), "wb") as file,
            pa.ipc.new_stream(file, rows.schema) as stream,
        ):
            stream.write_table(rows, max_chunksize=1_000)
    (folder / "state.json").write_text("{}")
    (folder / "dataset_info.json").write_text("{}")


def assert_streamed(found: EmbeddedSet, folder: Path) -> None:
    """Compare with the same rows read in memory, and see that ranks would map the streamed file itself."""
    parquet.write_table(table(), folder / "whole.parquet")
    expected = read_embeddings(folder / "whole.parquet")
    np.testing.assert_array_equal(found.train.embeddings, expected.embeddings)
    np.testing.assert_array_equal(found.train.labels, expected.labels)
    assert (found.train.ids, found.train.label_names) == (expected.ids, expected.label_names)
    assert found.train.digest == expected.digest
    assert write_rows(folder, training_rows(found), None) == folder / "streamed.npy"


def test_ray_data_streams_parquet_in_order(ray_cluster: RayCluster, tmp_path: Path) -> None:
    """Labels would belong to other rows, or a resumed run would see other rows than before."""
    source = tmp_path / "parts"
    source.mkdir()
    parquet.write_table(table(0, 12_000), source / "a.parquet", row_group_size=1_500)
    parquet.write_table(table(12_000, ROWS), source / "b.parquet", row_group_size=1_500)
    pairs = tmp_path / "pairs.parquet"
    parquet.write_table(pa.table({"query": ["r3", "r1"], "document": ["r4", "r19999"]}), pairs)
    load = training_data(str(source), None, pairs, tmp_path)
    assert callable(load)
    with ray_cluster.joined():
        ray.init(log_to_driver=False)
        try:
            found = load(tmp_path)
        finally:
            ray.shutdown()
    assert_streamed(found, tmp_path)
    np.testing.assert_array_equal(found.pairs, [[1, 19999], [3, 4]])


def test_a_folder_of_the_library_datasets_is_read(tmp_path: Path) -> None:
    """People would have to convert what most public embeddings come as."""
    save_as_datasets(tmp_path / "saved")
    load = training_data(str(tmp_path / "saved"), None, None, tmp_path)
    assert callable(load)
    assert_streamed(load(tmp_path), tmp_path)
    np.save(tmp_path / "asked.npy", np.ones((5, DIM), np.float32))
    load = training_data(str(tmp_path / "saved"), tmp_path / "asked.npy", None, tmp_path)
    assert callable(load)
    assert len(load(tmp_path).queries.ids) == 5


def test_only_large_files_are_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training would be killed for want of memory, or start a cluster to read a few rows."""
    file = tmp_path / "rows.parquet"
    parquet.write_table(table(0, 200), file)
    assert isinstance(training_data(str(file), None, None, tmp_path), EmbeddedSet)
    little = psutil.virtual_memory()._replace(available=4_000)
    monkeypatch.setattr(train_source.psutil, "virtual_memory", lambda: little)
    assert callable(training_data(str(file), None, None, tmp_path))


def test_what_cannot_be_streamed_says_where(tmp_path: Path) -> None:
    """People would search terabytes for the row that a traceback does not name."""
    job = tmp_path / "job"
    job.mkdir()
    (tmp_path / "nothing").mkdir()
    with pytest.raises(FileInvalid, match=r"no \.parquet and no \.arrow"):
        training_data(str(tmp_path / "nothing"), None, None, tmp_path)
    (tmp_path / "parts").mkdir()
    parquet.write_table(table(0, 10), tmp_path / "parts" / "a.parquet")
    (tmp_path / "parts" / "b.parquet").write_text("id,embedding")
    with pytest.raises(FileInvalid, match=r"b\.parquet: it cannot be read"):
        stream_set(tmp_path / "parts", None, None, job)
    save_as_datasets(tmp_path / "saved")
    rows = table(0, 10).to_pydict()
    rows["embedding"][7] = [float("nan")] * DIM
    bad = pa.table(rows)
    with (
        pa.OSFile(str(tmp_path / "saved" / "data-00002.arrow"), "wb") as file,
        pa.ipc.new_stream(file, bad.schema) as stream,
    ):
        stream.write_table(bad)
    with pytest.raises(FileInvalid, match=f"row {ROWS + 7} is zero or not finite"):
        stream_set(tmp_path / "saved", None, None, job)
    bare = tmp_path / "bare"
    bare.mkdir()
    with (
        pa.OSFile(str(bare / "data.arrow"), "wb") as file,
        pa.ipc.new_stream(file, pa.schema({"vector": pa.float32()})) as stream,
    ):
        stream.write_table(pa.table({"vector": pa.array([1.0], pa.float32())}))
    with pytest.raises(FileInvalid, match="column embedding: it is missing; there are: vector"):
        stream_set(bare, None, None, job)
