from pathlib import Path

import numpy as np
import pytest

from orchestration.data import catalog
from orchestration.data.cache import DataUnavailable


@pytest.mark.usefixtures("minilm")
def test_newsgroups_of_a_chosen_size(newsgroups: Path, tmp_path: Path) -> None:
    """`csr data`, the demo and everything that is built on it would not start."""
    (tmp_path / "packages").symlink_to(newsgroups.parent)  # download once, embed every time
    data = catalog.load_newsgroups20_sample(tmp_path, rows={"train": 40, "test": 12})
    assert data.name == "newsgroups20-sample"
    assert data.train.embeddings.shape == (40, 384)
    assert data.queries.embeddings.shape == (12, 384)
    assert data.documents is data.train
    assert (data.pairs, data.relevant) == (None, None)
    assert len(data.train.label_names) == 20
    np.testing.assert_allclose(np.linalg.norm(data.train.embeddings, axis=1), 1, atol=1e-3)
    assert not {*data.train.ids} & {*data.queries.ids}


def test_unknown_names_are_answered_with_the_known_ones(tmp_path: Path) -> None:
    """A typo would end in a traceback."""
    known = "newsgroups20, newsgroups20-sample, semanlink, debian, fashion, or the path of a .npy or .parquet"
    with pytest.raises(DataUnavailable, match=f"no data set 'newsgroup'; there are: {known}"):
        catalog.load("newsgroup", tmp_path)
    with pytest.raises(DataUnavailable, match="fashion has its own queries and pairs"):
        catalog.load("fashion", tmp_path, pairs=Path("pairs.npy"))
    assert not list(tmp_path.iterdir())


def test_a_path_is_a_set_of_its_own(tmp_path: Path) -> None:
    """`csr train --data vectors.npy` would look for a public set of that name."""
    np.save(tmp_path / "vectors.npy", np.eye(20, dtype=np.float32))
    assert catalog.load(str(tmp_path / "vectors.npy"), tmp_path / "cache").name == "vectors"


def test_unwritable_cache_is_one_clear_line(tmp_path: Path) -> None:
    """A wrong CSR_CACHE_DIR would end in a traceback."""
    (tmp_path / "file").write_text("")
    for name in catalog.SETS:
        with pytest.raises(DataUnavailable, match=r"cannot write .*: Not a directory"):
            catalog.load(name, tmp_path / "file" / "cache")


def test_every_set_says_what_may_be_done_with_it() -> None:
    """Users would pass on data without knowing its licence."""
    for chosen in catalog.SETS.values():
        assert len(chosen.licence) > 40
        assert chosen.about
