from pathlib import Path

import pytest

from orchestration.data.cache import DataUnavailable
from orchestration.data.newsgroups20 import read_split

TABLE = "Category\tText\nd\tstring\nclass\t\n\nsci.med\ta long enough text about medicine\nalt.b\ttoo short a text\n"


def test_real_splits_have_their_known_sizes(newsgroups: Path) -> None:
    """Accuracies would not compare with those published for the by-date split."""
    train, test = read_split(newsgroups, "train"), read_split(newsgroups, "test")
    assert (len(train), len(test)) == (11_284, 7_519)
    assert train.label_names == test.label_names
    assert len(train.label_names) == 20
    assert set(train.labels or ()) == set(test.labels or ()) == set(range(20))
    assert len({*train.ids, *test.ids}) == len(train) + len(test)
    assert train.texts[0].startswith("alt atheism faq atheist resources")
    assert train.label_names[(train.labels or ())[0]] == "alt.atheism"


def test_short_texts_are_left_out_and_ids_stay(tmp_path: Path) -> None:
    """Empty messages would be embedded, or ids would move with the filter."""
    (tmp_path / "train.tab").write_text(TABLE + "sci.med\tanother text that is long enough\n")
    texts = read_split(tmp_path, "train")
    assert texts.ids == ("train-00000", "train-00002")
    assert texts.texts == ("a long enough text about medicine", "another text that is long enough")
    assert texts.labels == (1, 1)
    assert texts.label_names == ("alt.b", "sci.med")


@pytest.mark.parametrize("table", [TABLE.removeprefix("Category\t"), TABLE + "no tab\n", ""])
def test_another_table_is_refused(tmp_path: Path, table: str) -> None:
    """A damaged file would become a shorter data set without a word."""
    (tmp_path / "test.tab").write_text(table)
    with pytest.raises(DataUnavailable, match=r"test\.tab is not a table of Category and Text"):
        read_split(tmp_path, "test")
