"""Semanlink: 7,061 web pages that one person tagged over 15 years, partly in French; a tag asks for its pages.

docs.json lists pages with title, comment and tags; tags.json has the label of each tag.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Final

import numpy as np

from orchestration.data.cache import DataUnavailable
from orchestration.data.packages import Package
from orchestration.data.texts import LabelledTexts, SearchTexts

LICENCE: Final = (
    "Semanlink: pages and tags collected by François-Paul Servant, from the package cherche (MIT), whose code is not "
    "used; titles and comments quote the pages they are about."
)
PACKAGE: Final = Package(
    name="cherche",
    version="2.2.1",
    sha256="7984a88f0bf9349cd08907baefc2527deaacea95d3acf5f4a1692896c507fe34",
    form="sdist",
    megabytes=2,
    members=(
        ("cherche-2.2.1/cherche/data/semanlink/docs.json", "docs.json"),
        ("cherche-2.2.1/cherche/data/semanlink/tags.json", "tags.json"),
    ),
)
TEXT_LENGTH_MIN: Final = 14
"""Characters of title and comment; shorter pages (one in thirty) say nothing about their tags."""
PAGES_MIN: Final = 3
"""Pages of a tag that asks."""
ORIGIN_TAG: Final = "arxiv_doc"
"""Says where a page comes from, not what it is about, so it does not ask."""


def read(folder: Path) -> SearchTexts:
    """Return pages in the order of the file, first occurrences only, and tags by name.

    Raises:
        DataUnavailable: a file is not in the expected format.
    """
    try:
        pages = json.loads((folder / "docs.json").read_text(encoding="utf-8"))
        labels = json.loads((folder / "tags.json").read_text(encoding="utf-8"))
        texts: dict[str, tuple[int, set[str]]] = {}
        for position, page in enumerate(pages):
            text = f"{page['title'].strip()} {page['comment'].strip()}".strip()
            if len(text) >= TEXT_LENGTH_MIN:
                texts.setdefault(text, (position, {tag.rpartition("/")[2] for tag in page["tag"]}))
        pages_by_tag = Counter(tag for _, tags in texts.values() for tag in tags if tag != ORIGIN_TAG)
        names = {address.rpartition("/")[2]: tag["prefLabel"][0] for address, tag in labels.items()}
        asking = {tag: names[tag] for tag, count in sorted(pages_by_tag.items()) if count >= PAGES_MIN}
        if not asking:
            raise ValueError("no tag has enough pages")
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise DataUnavailable(f"{folder} has no pages and tags of Semanlink; delete it and run again") from error
    rows = {tag: row for row, tag in enumerate(asking)}
    relevant = [(rows[tag], row) for row, (_, tags) in enumerate(texts.values()) for tag in tags & asking.keys()]
    return SearchTexts(
        documents=LabelledTexts(
            tuple(f"page-{position:05d}" for position, _ in texts.values()), tuple(texts), None, ()
        ),
        queries=LabelledTexts(tuple(f"tag-{tag}" for tag in asking), tuple(asking.values()), None, ()),
        relevant=np.array(sorted(relevant), dtype=np.int64).reshape(-1, 2),
    )
