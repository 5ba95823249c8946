"""Embed texts once: the result is cached under a digest of everything that it depends on."""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from orchestration.data.cache import build_once
from orchestration.data.split import FORMAT, EmbeddedSplit, load_split, save_split
from orchestration.data.texts import LabelledTexts
from services.encoder.backbone import TextBackbone, weights_sha256

CHUNK_TEXTS: Final = 256
"""Texts embedded between two saves: what an interrupted run loses at most."""


class BackboneFolder:
    """A backbone on disk; known by its hash, and loaded only when a text has to be embedded."""

    def __init__(self, path: Path, max_tokens: int, console: Console | None = None) -> None:
        self.path = path
        self.max_tokens = max_tokens
        self._console = console

    @cached_property
    def sha256(self) -> str:
        """Hash of the weights."""
        return weights_sha256(self.path)

    @cached_property
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
    chunk_texts: int = CHUNK_TEXTS,
) -> EmbeddedSplit:
    """Return the texts with their embeddings, from the cache if they were embedded before.

    Texts longer than the backbone's max_tokens are cut. An interrupted run continues at the chunk that it was at.

    Args:
        name: Of set and split, such as "newsgroups20-train"; the readable part of the folder's name.
        texts: What to embed; at least one.
        backbone: Loaded only if something is left to embed.
        cache: The user's cache folder.
        console: Where a progress bar is drawn; none without.
        chunk_texts: Texts between two saves.

    Raises:
        DataUnavailable: the cache cannot be written or is damaged.
        BackboneUnusable: the backbone cannot be loaded.
        InvalidRequest: a text is empty.
    """
    depends_on = f"{FORMAT}/{texts.digest()}/{backbone.sha256}/{backbone.max_tokens}"
    folder = cache / "embeddings" / f"{name}-{hashlib.sha256(depends_on.encode()).hexdigest()[:16]}"

    def build(partial: Path) -> None:
        chunks = partial / "chunks"
        chunks.mkdir(exist_ok=True)
        order = longest_first(texts)
        parts = list(_chunks(name, texts, order, backbone.loaded, chunks, console, chunk_texts))
        embeddings = np.empty((len(texts), parts[0].shape[1]), dtype=np.float16)
        embeddings[order] = np.concatenate(parts)
        provenance = {
            "name": name,
            "backbone": backbone.path.name,
            "backbone_sha256": backbone.sha256,
            "max_tokens": backbone.max_tokens,
            "precision": backbone.loaded.precision,
        }
        save_split(partial, texts, embeddings, provenance)
        shutil.rmtree(chunks)

    return load_split(build_once(folder, build))


def longest_first(texts: LabelledTexts) -> NDArray[np.intp]:
    """Return positions by length: alike lengths pad least, and memory peaks at once rather than at the end."""
    return np.argsort([-len(text) for text in texts.texts], kind="stable")


def _chunks(
    name: str,
    texts: LabelledTexts,
    order: NDArray[np.intp],
    backbone: TextBackbone,
    folder: Path,
    console: Console | None,
    chunk_texts: int,
) -> Iterator[NDArray[np.float16]]:
    """Yield the embeddings of the texts in this order, chunk by chunk; each is saved before it is yielded."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=console is None) as progress:
        task = progress.add_task(f"Embedding {name}", total=len(texts))
        for start in range(0, len(texts), chunk_texts):
            positions = order[start : start + chunk_texts]
            path = folder / f"{start:08d}-{len(positions)}.npy"
            if not path.exists():
                embedded = backbone.embed([texts.texts[row] for row in positions], allow_truncation=True)
                unnamed = path.with_suffix(".partial")
                with unnamed.open("wb") as file:
                    np.save(file, embedded.embeddings.astype(np.float16))
                    os.fsync(file.fileno())  # a power cut must not leave an empty file under the final name
                unnamed.rename(path)
            yield np.load(path, allow_pickle=False)
            progress.advance(task, len(positions))
