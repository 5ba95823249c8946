"""The SparseAutoEncoder folder of sentence-transformers, 5.0 to 6.2: `config.json` and `model.safetensors`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from csr_model.codes import checked_k
from csr_model.config import LATENTS_MAX
from csr_model.errors import ImportRefused
from csr_model.interop.folding import FoldedWeights
from csr_model.interop.modules_file import read_object

CONFIG_FILE: Final = "config.json"
WEIGHTS_FILE: Final = "model.safetensors"

WEIGHT_ALIASES: Final = ("decoder.linear.weight", "encoder.weight")
"""The one tied matrix [h, d]; files hold it under either name, pickled checkpoints under both."""

_CONFIG_TYPES: Final = {
    "input_dim": int,
    "hidden_dim": int,
    "k": int,
    "k_aux": int,
    "normalize": bool,
    "dead_threshold": int,
}
_STATS: Final = "stats_last_nonzero"
_DEAD_THRESHOLD: Final = 30


class StoredModule(NamedTuple):
    """What a SparseAutoEncoder folder says."""

    weights: FoldedWeights
    k: int


def write_module(folder: Path, weights: FoldedWeights, k: int) -> None:
    """Write the two files into an existing folder; OSError where the file system refuses."""
    hidden_dim, input_dim = weights.weight.shape
    config = {
        "input_dim": input_dim,
        "hidden_dim": hidden_dim,
        "k": k,
        "k_aux": min(max(1, input_dim // 2), hidden_dim),  # this and the next matter to further training only
        "normalize": False,
        "dead_threshold": _DEAD_THRESHOLD,
    }
    tensors = {
        "pre_bias": weights.pre_bias,
        "latent_bias": weights.latent_bias,
        WEIGHT_ALIASES[0]: weights.weight,
        _STATS: torch.zeros(hidden_dim, dtype=torch.int64),
    }
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=4) + "\n", encoding="utf-8")
    (folder / WEIGHTS_FILE).write_bytes(save_tensors(tensors, {"format": "pt"}))


def read_module(folder: Path) -> StoredModule:
    """Read and check a SparseAutoEncoder folder.

    Raises:
        ImportRefused: A file is missing or damaged, a setting or tensor is unknown, missing or out of range, or
            the module normalises layers.
    """
    config = _read_config(folder / CONFIG_FILE)
    weights = checked_weights(read_tensors(folder / WEIGHTS_FILE), folder / WEIGHTS_FILE)
    hidden_dim, input_dim = weights.weight.shape
    if (config["hidden_dim"], config["input_dim"]) != (hidden_dim, input_dim):
        raise ImportRefused(
            f"{folder}: {CONFIG_FILE} says hidden_dim {config['hidden_dim']} and input_dim {config['input_dim']}, the "
            f"weights have {hidden_dim} and {input_dim}; the two files must come from one model"
        )
    return StoredModule(weights, config["k"])


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file; ImportRefused where there are none."""
    try:
        tensors: dict[str, Tensor] = load_tensors(file.read_bytes())
    except OSError as error:
        raise ImportRefused(
            f"cannot read {file}: {error.strerror}; weights must be stored as safetensors (safe_serialization=True)"
        ) from error
    except (SafetensorError, KeyError) as error:  # KeyError: a dtype that torch does not have
        raise ImportRefused(f"{file} is not safetensors: {error}; copy it again") from error
    return tensors


def checked_weights(tensors: Mapping[str, Tensor], source: Path) -> FoldedWeights:
    """Return the weights of a tied autoencoder as float32, after checking names, shapes, dtypes and values.

    Args:
        tensors: All that `source` holds.
        source: For messages.

    Raises:
        ImportRefused: They are not exactly what a SparseAutoEncoder has, or not finite.
    """
    aliases = [name for name in WEIGHT_ALIASES if name in tensors]
    if len(aliases) != 1:
        held = "both" if aliases else "neither"
        raise ImportRefused(f"{source} holds {held} of {' and '.join(WEIGHT_ALIASES)}; it must hold exactly one")
    if "decoder.weight" in tensors:
        raise ImportRefused(f"{source}: decoder.weight is untied from {aliases[0]}; only tied decoders are read")
    expected = {"pre_bias", "latent_bias", aliases[0], _STATS}
    if missing := sorted(expected - tensors.keys()):
        raise ImportRefused(f"{source} lacks {', '.join(missing)}; save the whole SparseAutoEncoder")
    if unknown := sorted(tensors.keys() - expected):
        raise ImportRefused(f"{source} holds {', '.join(unknown)}, which no SparseAutoEncoder has; remove them")
    weight = tensors[aliases[0]]
    if weight.ndim != 2 or not weight.numel() or weight.shape[0] > LATENTS_MAX:
        raise ImportRefused(f"{source}: {aliases[0]} has shape {tuple(weight.shape)}; it must be [1…{LATENTS_MAX}, d]")
    hidden_dim, input_dim = weight.shape
    for name, size in {"pre_bias": input_dim, "latent_bias": hidden_dim, _STATS: hidden_dim}.items():
        if tensors[name].shape != (size,):
            raise ImportRefused(f"{source}: {name} has shape {tuple(tensors[name].shape)}; it must be [{size}]")
    return FoldedWeights(
        *(_checked_floats(tensors[name], name, source) for name in (aliases[0], "pre_bias", "latent_bias"))
    )


def k_of_model(k: object, hidden_dim: int, source: Path) -> int:
    """Return k as an int; ImportRefused unless it is a whole number and 1 ≤ k ≤ h."""
    rule = f"it must be a whole number within 1 … {hidden_dim}, the number of latents of {source}"
    return checked_k(k, hidden_dim, rule, ImportRefused)


def _read_config(file: Path) -> dict[str, Any]:
    config = read_object(file, ImportRefused)
    if wrong := sorted(config.keys() ^ _CONFIG_TYPES.keys()):
        raise ImportRefused(f"{file} lacks or adds {wrong}; it must be the configuration of a SparseAutoEncoder")
    for name, kind in _CONFIG_TYPES.items():
        if type(config[name]) is not kind:
            raise ImportRefused(f"{file}: {name} is {config[name]!r}; it must be of type {kind.__name__}")
    if config["normalize"]:
        raise ImportRefused(
            f"{file}: normalize is true; layer normalisation cannot be represented, train with normalize=False"
        )
    k_of_model(config["k"], config["hidden_dim"], file)
    return config


def _checked_floats(tensor: Tensor, name: str, source: Path) -> Tensor:
    if not tensor.is_floating_point():
        raise ImportRefused(f"{source}: {name} has dtype {tensor.dtype}; it must be floating point")
    values = tensor.detach().float()
    if not bool(values.isfinite().all()):
        raise ImportRefused(f"{source}: {name} holds NaN or Inf; every weight must be finite in float32")
    return values
