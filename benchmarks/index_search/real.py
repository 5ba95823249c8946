"""Codes of real embeddings: an adapter is trained once on each set, and its codes are kept in the cache."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.index_search.codes import K_STORED, Dense, Floats, RowNumbers, SearchSet, stored
from orchestration.data.cache import build_once
from orchestration.data.catalog import load
from orchestration.data.sets import EmbeddedSet
from services.index.core.code import Codes
from services.runtime.settings import load_settings

_FORMAT: Final = 1
_SEED: Final = 0


@dataclass(frozen=True, eq=False)
class Source:
    """What an adapter learns from, what is searched, and who asks; embeddings of unit length.

    Attributes:
        about: Exactly what it is made of.
        train: [n, d].
        ids: [n].
        labels: [n], or None.
        pairs: [m, 2], rows of `train`, or None.
        documents: [N, d].
        queries: [q, d].
    """

    about: str
    train: Floats
    ids: list[str]
    labels: RowNumbers | None
    pairs: RowNumbers | None
    documents: Floats
    queries: Floats


def load_real(name: str, say: Callable[[str], None]) -> SearchSet:
    """Return a set of SOURCES, trained and encoded unless the cache has it; training takes minutes."""
    source = SOURCES[name]()
    digest = hashlib.sha256(json.dumps([_FORMAT, _SEED, source.about, source.ids]).encode())
    for rows in (source.train, source.documents, source.queries):
        digest.update(np.ascontiguousarray(rows).tobytes())
    folder = load_settings().cache_dir / "benchmarks" / f"index-{name}-{digest.hexdigest()[:16]}"
    build_once(folder, lambda unfinished: _encode(name, source, unfinished, say))
    described = json.loads((folder / "codes.json").read_text())
    with np.load(folder / "codes.npz") as arrays:
        documents, queries = (
            Codes(arrays[f"{part}_latents"], arrays[f"{part}_weights"]) for part in ("document", "query")
        )
    about = f"{source.about}; {described['recipe']}"
    return SearchSet(name, about, described["hidden_dim"], documents, queries, Dense(source.documents, source.queries))


def _encode(name: str, source: Source, folder: Path, say: Callable[[str], None]) -> None:
    from csr_model import fit  # torch takes a quarter of a gigabyte, which processes that only search do not need

    say(f"training an adapter on {name}, once")
    pairs = None if source.pairs is None else (source.pairs[:, 0], source.pairs[:, 1])
    result = fit(source.train, labels=source.labels, pairs=pairs, ids=source.ids, seed=_SEED)
    adapter = result.adapter
    arrays: dict[str, Any] = {}
    for part, rows in (("document", source.documents), ("query", source.queries)):
        codes = adapter.encode(rows, K_STORED)
        kept = stored(codes.latents, codes.weights, adapter.hidden_dim)
        arrays |= {f"{part}_latents": kept.latents, f"{part}_weights": kept.weights}
    np.savez(folder / "codes.npz", **arrays)
    recipe = f"csr_model.fit, seed {_SEED}" + (f", {result.choice.name}" if result.choice else "")
    (folder / "codes.json").write_text(json.dumps({"hidden_dim": adapter.hidden_dim, "recipe": recipe}) + "\n")


def _debian() -> Source:
    data = _set("debian")
    about = "package descriptions; asked by synopses that training has not seen; all-MiniLM-L6-v2"
    return _of(data, about)


def _fashion() -> Source:
    return _of(_set("fashion"), "pictures of Fashion-MNIST, train split; asked by its test split; EfficientNet-Lite0")


def _texts() -> Source:
    """Return every text that the data sets have in the embedding space of MiniLM, but those that ask."""
    debian, news, pages = _set("debian"), _set("newsgroups20"), _set("semanlink")
    splits = (debian.train, news.train, news.queries, pages.documents)
    rows = np.concatenate([split.embeddings for split in splits])
    _, first, same = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    kept = np.sort(first)
    place = np.searchsorted(kept, first[same.ravel()])
    assert debian.pairs is not None
    pairs = place[debian.pairs]
    documents = _unit(rows[kept])
    about = (
        "Debian's descriptions and the synopses of training, 20 Newsgroups (both splits) and Semanlink's pages, "
        "without repeats; asked by Debian's test synopses and Semanlink's tags; all-MiniLM-L6-v2"
    )
    ids = [name for split in splits for name in split.ids]
    queries = np.concatenate([debian.queries.embeddings, pages.queries.embeddings])
    return Source(
        about,
        documents,
        [ids[row] for row in kept],
        None,
        pairs[pairs[:, 0] != pairs[:, 1]],
        documents,
        np.random.default_rng(_SEED).permutation(_unit(queries)),
    )


def _of(data: EmbeddedSet, about: str) -> Source:
    return Source(
        about,
        _unit(data.train.embeddings),
        data.train.ids,
        data.train.labels,
        data.pairs,
        _unit(data.documents.embeddings),
        _unit(data.queries.embeddings),
    )


def _set(name: str) -> EmbeddedSet:
    return load(name, load_settings().cache_dir)


def _unit(rows: Floats) -> Floats:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


SOURCES: Final[Mapping[str, Callable[[], Source]]] = {"debian": _debian, "fashion": _fashion, "texts": _texts}
