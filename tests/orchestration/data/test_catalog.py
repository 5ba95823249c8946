from pathlib import Path

import numpy as np
import pytest

from orchestration.data import catalog
from orchestration.data.cache import DataUnavailable


@pytest.mark.usefixtures("minilm")
def test_newsgroups_of_a_chosen_size(newsgroups: Path, tmp_path: Path) -> None:
    """`csr data newsgroups20` and everything that is built on it would not start."""
    (tmp_path / "packages").symlink_to(newsgroups.parent)  # download once, embed every time
    splits = catalog.load("newsgroups20", tmp_path, rows={"train": 40, "test": 12})
    assert splits.keys() == {"train", "test"}
    train, test = splits["train"], splits["test"]
    assert train.embeddings.shape == (40, 384)
    assert test.embeddings.shape == (12, 384)
    assert len(train.label_names) == 20
    np.testing.assert_allclose(np.linalg.norm(train.embeddings, axis=1), 1, atol=1e-3)
    assert not {*train.ids} & {*test.ids}


def test_unknown_names_are_answered_with_the_known_ones(tmp_path: Path) -> None:
    """A typo would end in a traceback."""
    with pytest.raises(DataUnavailable, match="no data set 'newsgroup'; there are: newsgroups20"):
        catalog.load("newsgroup", tmp_path)
    with pytest.raises(DataUnavailable, match="newsgroups20 has no split 'dev'; there are: train, test"):
        catalog.load("newsgroups20", tmp_path, rows={"dev": 5})
    assert not list(tmp_path.iterdir())


def test_unwritable_cache_is_one_clear_line(tmp_path: Path) -> None:
    """A wrong CSR_CACHE_DIR would end in a traceback."""
    (tmp_path / "file").write_text("")
    with pytest.raises(DataUnavailable, match=r"cannot write .*: Not a directory"):
        catalog.load("newsgroups20", tmp_path / "file" / "cache")


def test_every_set_says_what_may_be_done_with_it() -> None:
    """Users would pass on data without knowing its licence."""
    for name, chosen in catalog.SETS.items():
        assert chosen.name == name
        assert len(chosen.licence) > 40
