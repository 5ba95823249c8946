from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from csr_model import ArtifactCorrupt, ArtifactError, CSRAdapter, read_codes


def test_two_writers_do_not_mix(adapter: CSRAdapter, embeddings: np.ndarray, tmp_path: Path) -> None:
    """Two jobs with one target would interleave their rows in one file; the last to finish must win whole."""
    path = tmp_path / "codes.npy"

    def batches() -> Iterator[np.ndarray]:
        yield embeddings[:100]
        assert adapter.encode_to(path, [embeddings[:7]], 4) == 7
        assert len(read_codes(path).latents) == 7
        yield embeddings[100:]

    assert adapter.encode_to(path, batches(), 4) == 320
    np.testing.assert_array_equal(read_codes(path).latents, adapter.encode(embeddings, 4).latents)
    assert [entry.name for entry in tmp_path.iterdir()] == ["codes.npy"]


@pytest.mark.parametrize("name", ["folder", "missing/codes.npy", "a\0b"])
def test_paths_that_cannot_be_written_are_refused_at_once(
    adapter: CSRAdapter, embeddings: np.ndarray, tmp_path: Path, name: str
) -> None:
    """Ten million rows must not be encoded for a path that cannot take them."""
    (tmp_path / "folder").mkdir()

    def batches() -> Iterator[np.ndarray]:
        raise AssertionError("nothing may be encoded")
        yield embeddings

    with pytest.raises(ArtifactError, match="cannot write"):
        adapter.encode_to(tmp_path / name, batches(), 4)
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]


def test_errors_of_the_batches_stay_what_they_are(adapter: CSRAdapter, tmp_path: Path) -> None:
    """A caller whose own file breaks off must not be told that the codes could not be written."""

    def batches() -> Iterator[np.ndarray]:
        raise FileNotFoundError("shard 3")
        yield np.empty((0, 16))

    with pytest.raises(FileNotFoundError, match="shard 3"):
        adapter.encode_to(tmp_path / "codes.npy", batches(), 4)
    assert not list(tmp_path.iterdir())


def test_other_files_are_no_codes(adapter: CSRAdapter, embeddings: np.ndarray, tmp_path: Path) -> None:
    """A bulk load of the wrong or a broken file must say so."""
    path = tmp_path / "codes.npy"
    with pytest.raises(ArtifactCorrupt, match="cannot read codes"):
        read_codes(path)
    for other in (embeddings, np.zeros(3, [("latents", "<u2", 4), ("weights", "<f4", 3)]), np.zeros(3, "i4,i4")):
        np.save(path, other)
        with pytest.raises(ArtifactCorrupt, match="are no codes"):
            read_codes(path)
    adapter.encode_to(path, [embeddings], 4)
    whole = path.read_bytes()
    for length in (0, 20, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ArtifactCorrupt, match="cannot read codes"):
            read_codes(path)


def test_no_batches_give_a_file_without_rows(adapter: CSRAdapter, tmp_path: Path) -> None:
    """An empty collection is not an error."""
    assert adapter.encode_to(tmp_path / "codes.npy", [], 4) == 0
    assert read_codes(tmp_path / "codes.npy").weights.shape == (0, 4)
