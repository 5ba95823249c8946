"""Make adapters of models that sentence-transformers or the official code trained."""

import os
from itertools import takewhile
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from csr_model.adapter import CSRAdapter, adapter_of
from csr_model.autoencoder import CSRAutoencoder
from csr_model.config import decoded_ks
from csr_model.embeddings import checked_rows
from csr_model.errors import ImportRefused
from csr_model.interop.checkpoint import read_checkpoint
from csr_model.interop.folding import FoldedWeights
from csr_model.interop.modules_file import (
    DROPOUT,
    MODULES_FILE,
    NORMALIZE,
    SPARSE_AUTO_ENCODER,
    Module,
    normalizes_rows,
    read_modules,
)
from csr_model.interop.sparse_auto_encoder import StoredModule, k_of_model, read_module

_RANDOM_ROWS: Final = 256
_RANDOM_SEED: Final = 0
_MAY_FOLLOW_NORMALIZE: Final = (DROPOUT, "Dense", "LayerNorm")


def import_adapter(
    path: str | os.PathLike[str],
    k: int | None = None,
    normalize: bool | None = None,
    rows: "np.ndarray[Any, Any] | None" = None,
) -> CSRAdapter:
    """Return an adapter that encodes as a foreign model does; its folder or file is only read, never executed.

    Its levels are the powers of two below k, then k; its preprocessing is row normalisation or nothing.

    Args:
        path: A sentence-transformers model folder (of which the SparseAutoEncoder alone is taken), a
            SparseAutoEncoder folder, or a checkpoint: `.pth` of CSR, `.safetensors` of CSRv2.
        k: What the model was trained for; for checkpoints only, which do not say it.
        normalize: Whether rows are scaled to unit length first, by default not. Not for model folders, which say it
            themselves: they do if a Normalize module, and then at most Dropout, precedes the autoencoder.
        rows: [n, d] real embeddings for reference codes and usage; without them references are random and
            usage is unknown.

    Raises:
        ImportRefused: Something is missing, damaged, unsafe, or cannot be represented; or arguments do not fit.
        InvalidVector: A row is not finite, has no direction, or has the wrong dimension.
    """
    source = Path(path)
    if source.is_dir():
        _check_absent("k", k, source)
        if (source / MODULES_FILE).exists():
            _check_absent("normalize", normalize, source)
            stored, normalize = _read_model(source)
            origin = "sentence-transformers model"
        else:
            stored, origin = read_module(source), "sentence-transformers module"
    elif source.is_file():
        if k is None:
            raise ImportRefused(f"{source} does not say its k; pass the k that it was trained for")
        weights = read_checkpoint(source)
        k = k_of_model(k, len(weights.latent_bias), source)
        stored, origin = StoredModule(weights, k), "official checkpoint"
    else:
        raise ImportRefused(f"path {source} does not exist")
    return _adapter(stored, bool(normalize), rows, origin)


def _read_model(folder: Path) -> tuple[StoredModule, bool]:
    modules = read_modules(folder, ImportRefused)
    if [module.kind for module in modules].count(SPARSE_AUTO_ENCODER) != 1:
        raise ImportRefused(f"{folder}/{MODULES_FILE} does not list exactly one {SPARSE_AUTO_ENCODER}")
    if modules[-1].kind != SPARSE_AUTO_ENCODER:
        raise ImportRefused(f"{folder}/{MODULES_FILE}: {modules[-1].kind} follows the {SPARSE_AUTO_ENCODER}")
    _check_known_after_normalize(modules[:-1], folder)
    return read_module(modules[-1].folder), normalizes_rows(modules[:-1], ImportRefused)


def _check_known_after_normalize(modules: list[Module], folder: Path) -> None:
    kinds = [module.kind for module in modules]
    after = list(takewhile(lambda kind: kind != NORMALIZE, reversed(kinds)))
    unknown = [kind for kind in after if kind not in _MAY_FOLLOW_NORMALIZE]
    if unknown and len(after) < len(kinds):
        raise ImportRefused(
            f"{folder}/{MODULES_FILE}: {unknown[0]} stands between {NORMALIZE} and {SPARSE_AUTO_ENCODER}; whether rows "
            f"keep unit length is known for {', '.join(_MAY_FOLLOW_NORMALIZE)} only"
        )


def _check_absent(name: str, value: object, folder: Path) -> None:
    if value is not None:
        raise ImportRefused(f"{name} is given, but {folder} says it itself; leave it out")


def _adapter(stored: StoredModule, normalize: bool, rows: "np.ndarray[Any, Any] | None", origin: str) -> CSRAdapter:
    weights, k = stored
    hidden_dim, input_dim = weights.weight.shape
    levels = (*(1 << power for power in range((k - 1).bit_length())), k)
    model = CSRAutoencoder(input_dim, hidden_dim, decoded_ks(levels, hidden_dim), normalize)
    _set_weights(model, weights)
    sample = _random_rows(input_dim) if rows is None else checked_rows(rows, input_dim)
    if not len(sample):
        raise ImportRefused("rows is empty; pass at least one embedding, or leave it out")
    usage_rows = 0 if rows is None else len(sample)
    return adapter_of(model, levels, sample, usage_rows, training={"imported_from": origin}, data={})


def _set_weights(model: CSRAutoencoder, weights: FoldedWeights) -> None:
    with torch.no_grad():
        model.weight.copy_(weights.weight)
        model.pre_bias.copy_(weights.pre_bias)
        model.latent_bias.copy_(weights.latent_bias)


def _random_rows(input_dim: int) -> Tensor:
    random = torch.Generator().manual_seed(_RANDOM_SEED)
    return F.normalize(torch.randn(_RANDOM_ROWS, input_dim, generator=random), dim=1)
