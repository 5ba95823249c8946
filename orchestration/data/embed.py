"""Embed rows once: the result is cached under a digest of everything that it depends on."""

import functools
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from orchestration.data.cache import build_once
from orchestration.data.efficientnet import SIDE, EfficientNetLite0
from orchestration.data.split import FORMAT, EmbeddedSplit, load_split, save_split
from orchestration.data.texts import LabelledTexts
from services.encoder.backbone import TextBackbone, weights_sha256

CHUNK_ROWS: Final = 256
"""Rows embedded between two saves: what an interrupted run loses at most."""

Embed: TypeAlias = Callable[[Sequence[int]], NDArray[np.float32]]
"""Positions of rows → their embeddings."""


class BackboneFolder:
    """A backbone on disk; known by its hash, and loaded only when a text has to be embedded."""

    def __init__(self, path: Path, max_tokens: int, console: Console | None = None) -> None:
        self.path = path
        self.max_tokens = max_tokens
        self._console = console

    @functools.cached_property
    def sha256(self) -> str:
        """Hash of the weights."""
        return weights_sha256(self.path)

    @functools.cached_property
    def loaded(self) -> TextBackbone:
        """The backbone, ready to embed."""
        with self._console.status(f"Loading {self.path.name}") if self._console else nullcontext():
            return TextBackbone.load(self.path, self.max_tokens)


def embed_texts(
    name: str,
    texts: LabelledTexts,
    backbone: BackboneFolder,
    cache: Path,
    console: Console | None = None,
    chunk_rows: int = CHUNK_ROWS,
    origin: Mapping[str, Any] | None = None,
) -> EmbeddedSplit:
    """Return the texts with their embeddings, from the cache if they were embedded before.

    Texts longer than the backbone's max_tokens are cut. An interrupted run continues at the chunk that it was at.

    Args:
        name: Of set and split, such as "newsgroups20-train"; the readable part of the folder's name.
        texts: What to embed; at least one.
        backbone: Loaded only if something is left to embed.
        cache: The user's cache folder.
        console: Where a progress bar is drawn; none without.
        chunk_rows: Texts between two saves.
        origin: What is known about the texts, for the record.

    Raises:
        DataUnavailable: the cache cannot be written or is damaged.
        BackboneUnusable: the backbone cannot be loaded.
        InvalidRequest: a text is empty.
    """

    def embed(positions: Sequence[int]) -> NDArray[np.float32]:
        batch = [texts.texts[position] for position in positions]
        return backbone.loaded.embed(batch, allow_truncation=True).embeddings

    def provenance() -> dict[str, Any]:
        return {
            "backbone": backbone.path.name,
            "backbone_sha256": backbone.sha256,
            "max_tokens": backbone.max_tokens,
            "precision": backbone.loaded.precision,
            **(origin or {}),
        }

    made_by = f"{backbone.sha256}/{backbone.max_tokens}"
    order = longest_first(texts)
    return embed_rows(name, texts, embed, made_by, provenance, cache, console, order, chunk_rows)


def embed_pictures(
    name: str,
    rows: LabelledTexts,
    pictures: NDArray[np.uint8],
    weights: Path,
    cache: Path,
    console: Console | None = None,
    chunk_rows: int = CHUNK_ROWS,
) -> EmbeddedSplit:
    """Return grey pictures with their EfficientNet-Lite0 features, from the cache if they were embedded before.

    Args:
        name: Of set and split; the readable part of the folder's name.
        rows: Ids and labels.
        pictures: [n, height, width].
        weights: File of the network; read only if something is left to embed.
        cache: The user's cache folder.
        console: Where a progress bar is drawn; none without.
        chunk_rows: Pictures between two saves.

    Raises:
        DataUnavailable: the cache cannot be written or is damaged.
    """
    network = functools.cache(lambda: EfficientNetLite0.load(weights))
    sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()

    def embed(positions: Sequence[int]) -> NDArray[np.float32]:
        return network().embed(pictures[positions])

    def provenance() -> dict[str, Any]:
        return {"backbone": weights.stem, "backbone_sha256": sha256, "pixels": SIDE}

    made_by = f"{hashlib.sha256(pictures.tobytes()).hexdigest()}/{sha256}/{SIDE}"
    return embed_rows(name, rows, embed, made_by, provenance, cache, console, chunk_rows=chunk_rows)


def embed_rows(
    name: str,
    rows: LabelledTexts,
    embed: Embed,
    made_by: str,
    provenance: Callable[[], Mapping[str, Any]],
    cache: Path,
    console: Console | None = None,
    order: NDArray[np.intp] | None = None,
    chunk_rows: int = CHUNK_ROWS,
) -> EmbeddedSplit:
    """Return the rows with their embeddings, from the cache if they were embedded before.

    Args:
        name: Of set and split; the readable part of the folder's name.
        rows: At least one.
        embed: Called only if something is left to embed.
        made_by: Everything besides `rows` that the embeddings depend on.
        provenance: What the record says about them; asked when they are made.
        cache: The user's cache folder.
        console: Where a progress bar is drawn; none without.
        order: In which rows are embedded.
        chunk_rows: Rows between two saves.

    Raises:
        DataUnavailable: the cache cannot be written or is damaged.
    """
    folder = cache / "embeddings" / f"{name}-{_sha256(f'{FORMAT}/{rows.digest()}/{made_by}')[:16]}"
    order = np.arange(len(rows)) if order is None else order

    def build(partial: Path) -> None:
        chunks = partial / "chunks"
        chunks.mkdir(exist_ok=True)
        parts = list(_chunks(name, embed, order, chunks, console, chunk_rows))
        embeddings = np.empty((len(rows), parts[0].shape[1]), dtype=np.float16)
        embeddings[order] = np.concatenate(parts)
        save_split(partial, rows, embeddings, {"name": name, **provenance()})
        shutil.rmtree(chunks)

    return load_split(build_once(folder, build))


def longest_first(texts: LabelledTexts) -> NDArray[np.intp]:
    """Return positions by length: alike lengths pad least, and memory peaks at once rather than at the end."""
    return np.argsort([-len(text) for text in texts.texts], kind="stable")


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _chunks(
    name: str, embed: Embed, order: NDArray[np.intp], folder: Path, console: Console | None, chunk_rows: int
) -> Iterator[NDArray[np.float16]]:
    """Yield the embeddings of the rows in this order, chunk by chunk; each is saved before it is yielded."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=console is None) as progress:
        task = progress.add_task(f"Embedding {name}", total=len(order))
        for start in range(0, len(order), chunk_rows):
            positions = order[start : start + chunk_rows]
            path = folder / f"{start:08d}-{len(positions)}.npy"
            if not path.exists():
                unnamed = path.with_suffix(".partial")
                with unnamed.open("wb") as file:
                    np.save(file, embed(positions.tolist()).astype(np.float16))
                    os.fsync(file.fileno())  # a power cut must not leave an empty file under the final name
                unnamed.rename(path)
            yield np.load(path, allow_pickle=False)
            progress.advance(task, len(positions))
