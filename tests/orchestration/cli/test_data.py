"""`csr data`, in this process."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from typer.testing import CliRunner

from orchestration.cli import app
from orchestration.data.cache import DataUnavailable
from orchestration.data.catalog import SETS


def run(*arguments: str) -> str:
    """Return what a command prints; errors it raises reach the test."""
    result = CliRunner().invoke(app, ["data", *arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_without_a_name_all_sets_are_listed() -> None:
    """A newcomer could not find out which data there is."""
    assert all(name in run() for name in SETS)
    assert {name: each["licence"] for name, each in json.loads(run("--json")).items()} == {
        name: each.licence for name, each in SETS.items()
    }


def test_a_file_is_described(tmp_path: Path) -> None:
    """People would train before they know what their file was taken for."""
    np.save(tmp_path / "own.npy", np.eye(50, dtype=np.float32))
    described = json.loads(run(str(tmp_path / "own.npy"), "--json"))
    assert (described["train"], described["documents"], described["queries"], described["dim"]) == (45, 45, 5, 50)
    assert (described["labels"], described["pairs"], described["licence"]) == (None, None, None)
    printed = run(str(tmp_path / "own.npy"))
    assert "45 embeddings of 50 dimensions" in printed
    assert "5 test queries, judged by their nearest documents" in printed
    assert described["digest"] in printed


def test_a_file_with_a_bad_row_is_refused(tmp_path: Path) -> None:
    """Hours of training would end in a loss that is not a number."""
    np.save(tmp_path / "own.npy", np.zeros((50, 4), dtype=np.float32))
    with pytest.raises(DataUnavailable, match=r"own\.npy: column embedding: row 0 is zero or not finite"):
        run(str(tmp_path / "own.npy"))


def test_a_file_with_labels_and_pairs_names_both_judges(tmp_path: Path) -> None:
    """People would take pairs that they gave for unused."""
    rows = {"embedding": list(np.eye(50, dtype=np.float32)), "label": [row % 2 for row in range(50)]}
    parquet.write_table(pa.table(rows), tmp_path / "own.parquet")
    np.save(tmp_path / "pairs.npy", np.arange(50).reshape(25, 2))
    printed = run(str(tmp_path / "own.parquet"), "--pairs", str(tmp_path / "pairs.npy"))
    assert "2 test queries, judged by 2 relevant documents and 2 labels" in printed


def test_a_folder_is_not_taken_for_a_typo(tmp_path: Path) -> None:
    """People who trained on a folder would look for a mistake in its name."""
    with pytest.raises(DataUnavailable, match="is a folder, which only `csr train` reads"):
        run(str(tmp_path))
