"""Checkpoints of the official code: `.pth` files of CSR (Wen et al. 2025), `.safetensors` of CSRv2."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from csr_model.embeddings import is_dense
from csr_model.errors import ImportRefused
from csr_model.interop.folding import FoldedWeights
from csr_model.interop.sparse_auto_encoder import WEIGHT_ALIASES, checked_weights, read_tensors

PICKLED: Final = (".pth", ".pt", ".tar")
SAFETENSORS: Final = ".safetensors"

_WRAPPERS: Final = re.compile(r"^(module\.)+")
_BACKBONE: Final = "pre_trained_backbone."


def read_checkpoint(file: Path) -> FoldedWeights:
    """Return the weights of a checkpoint; nothing in it is executed.

    Raises:
        ImportRefused: It is damaged, holds more than tensors and plain values, or no tied autoencoder.
    """
    if file.suffix == SAFETENSORS:
        return checked_weights(_unwrapped(read_tensors(file)), file)
    if file.suffix not in PICKLED:
        raise ImportRefused(f"{file}: suffix is none of {', '.join((*PICKLED, SAFETENSORS))}")
    tensors = _unwrapped(_unpickled_tensors(file))
    if unusual := sorted(name for name, tensor in tensors.items() if not is_dense(tensor)):
        raise ImportRefused(f"{file}: {', '.join(unusual)} must be dense tensors; save to_dense() or dequantize()")
    return checked_weights(_without_alias(tensors, file), file)


def _unpickled_tensors(file: Path) -> Mapping[str, Tensor]:
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ImportRefused(f"cannot read {file}: {error.strerror or error}") from error
    except Exception as error:  # torch's reader fails in many ways on bytes that are no checkpoint
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ImportRefused(
            f"{file} is damaged or holds more than tensors and plain values ({reason}); save its state_dict alone"
        ) from error
    state: Any = content.get("state_dict", content) if isinstance(content, dict) else content
    named = isinstance(state, Mapping) and all(isinstance(key, str) for key in state)
    if not named or not all(isinstance(value, Tensor) for value in state.values()):
        raise ImportRefused(f"{file} holds no state_dict of tensors")
    return dict(state)


def _unwrapped(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the autoencoder's own tensors: without the wrappers of distributed training and without the backbone."""
    bare = {_WRAPPERS.sub("", name, count=1): tensor for name, tensor in tensors.items()}
    return {name: tensor for name, tensor in bare.items() if not name.startswith(_BACKBONE)}


def _without_alias(tensors: dict[str, Tensor], file: Path) -> dict[str, Tensor]:
    """Return the tensors with the tied matrix under one name; a state_dict lists it under both."""
    kept, alias = WEIGHT_ALIASES
    if kept in tensors and alias in tensors:
        if not torch.equal(tensors[kept], tensors[alias]):
            raise ImportRefused(f"{file}: {kept} and {alias} differ; only tied decoders are read")
        del tensors[alias]
    return tensors
