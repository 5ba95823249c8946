import json
from pathlib import Path

import numpy as np
import pytest

from orchestration.data import semanlink
from orchestration.data.cache import DataUnavailable
from orchestration.data.packages import fetch


def page(title: str, *tags: str, comment: str = "") -> dict[str, object]:
    """Return a page in the package's words."""
    return {"title": title, "comment": comment, "tag": [f"http://www.semanlink.net/tag/{tag}" for tag in tags]}


def write(folder: Path, pages: list[dict[str, object]], **labels: str) -> None:
    """Write both files of the package."""
    tags = {f"http://www.semanlink.net/tag/{tag}": {"prefLabel": [label]} for tag, label in labels.items()}
    (folder / "docs.json").write_text(json.dumps(pages))
    (folder / "tags.json").write_text(json.dumps(tags))


def test_the_real_set_has_its_known_size(user_cache: Path) -> None:
    """nDCG would not compare with the figures that are published for it."""
    texts = semanlink.read(fetch(semanlink.PACKAGE, user_cache))
    assert (len(texts.documents), len(texts.queries), len(texts.relevant)) == (7_061, 1_559, 12_673)
    assert len(np.unique(texts.relevant, axis=0)) == 12_673
    assert np.bincount(texts.relevant[:, 0]).min() == semanlink.PAGES_MIN
    assert len({*texts.documents.ids, *texts.queries.ids}) == 7_061 + 1_559
    query = texts.queries.ids.index("tag-word_embedding")
    assert texts.queries.texts[query] == "Word embeddings"
    answers = [texts.documents.texts[row].lower() for asked, row in texts.relevant.tolist() if asked == query]
    assert len(answers) == 66
    assert sum("embedding" in text or "vec" in text for text in answers) > 40


def test_answers_are_the_pages_with_the_tag(tmp_path: Path) -> None:
    """Queries would be judged by the pages of other tags."""
    pages = [
        page("a page about whales", "whale", "sea"),
        page("short", "whale", "sea"),
        page("a second page", "sea", "rare", comment="on whales and boats"),
        page("a third page of whales", "whale", "sea", "arxiv_doc"),
        page("a page about whales", "rare", "arxiv_doc"),
        page("yet another page", "whale", "rare", "arxiv_doc"),
        page("one more long page", "arxiv_doc"),
    ]
    write(tmp_path, pages, whale="Whales", sea="The sea", rare="Rare", arxiv_doc="arXiv")
    texts = semanlink.read(tmp_path)
    assert texts.documents.ids == ("page-00000", "page-00002", "page-00003", "page-00005", "page-00006")
    assert texts.documents.texts[1] == "a second page on whales and boats"
    assert dict(zip(texts.queries.ids, texts.queries.texts, strict=True)) == {
        "tag-sea": "The sea",
        "tag-whale": "Whales",
    }
    assert texts.relevant.tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 2], [1, 3]]


@pytest.mark.parametrize("damage", ["[]", "{", '[{"title": "without tags and comment"}]'])
def test_another_file_is_refused(tmp_path: Path, damage: str) -> None:
    """A damaged cache would end in a traceback, or become a smaller set without a word."""
    write(tmp_path, [page("a page about whales", "whale")], whale="Whales")
    (tmp_path / "docs.json").write_text(damage)
    with pytest.raises(DataUnavailable, match="has no pages and tags of Semanlink"):
        semanlink.read(tmp_path)
