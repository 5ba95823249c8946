"""The stored form of an adapter: a folder with `adapter.safetensors` and `config.json`, never pickle.

`config.json` says what the adapter is (format version, dimensions, levels, preprocessing, fingerprint,
SHA-256 of the tensor file) and where it comes from (training configuration, data digest, metrics,
backbone). The tensor file holds the weights and, beside them, the usage of each latent over the
training rows and a few reference embeddings with their codes. Nothing else in the folder is read.

The fingerprint names a space of codes: the first 32 hex digits of a SHA-256 over everything that
decides a code, and nothing else. Two adapters with one fingerprint encode alike.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from csr_model.config import LATENTS_MAX, decoded_ks
from csr_model.embeddings import checked_rows
from csr_model.errors import ArtifactCorrupt, ArtifactError, ArtifactExists, ArtifactTooNew, InvalidVector
from csr_model.new_folder import new_folder

FORMAT_VERSION = 2
WEIGHTS_FILE = "adapter.safetensors"
CONFIG_FILE = "config.json"

_CODE_TENSORS = ("latent_bias", "mean", "pre_bias", "scale", "weight")
_LINEAR_MAP = "linear_map"
_ADDED_IN_2 = {_LINEAR_MAP: False}
_CONFIG_TYPES: Mapping[str, tuple[type, ...]] = {
    "input_dim": (int,),
    "hidden_dim": (int,),
    "levels": (list,),
    "normalize": (bool,),
    "linear_map": (bool,),
    "fingerprint": (str,),
    "weights_sha256": (str,),
    "training": (dict,),
    "data": (dict,),
    "usage_rows": (int,),
    "metrics": (dict,),
    "backbone": (str, type(None)),
    "format_version": (int,),
}


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What `config.json` says.

    Attributes:
        input_dim: d.
        hidden_dim: h.
        levels: The k the adapter was trained for, ascending; the last is k_max.
        normalize: Whether embeddings are scaled to unit length first.
        linear_map: Whether a linear map comes before the mean is taken off.
        fingerprint: Of the adapter, see the module; 32 hex digits.
        weights_sha256: Of `adapter.safetensors`.
        training: The training configuration's fields.
        data: Digest and number of the training rows.
        usage_rows: Number of training rows behind the usage histogram.
        metrics: Quality as measured by whoever trained it.
        backbone: Name of the model that embeds text for this adapter, or None.
        format_version: Of this folder.
    """

    input_dim: int
    hidden_dim: int
    levels: tuple[int, ...]
    normalize: bool
    linear_map: bool = False
    fingerprint: str
    weights_sha256: str = ""
    training: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    usage_rows: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    backbone: str | None = None
    format_version: int = FORMAT_VERSION


def fingerprint(tensors: Mapping[str, Tensor], levels: tuple[int, ...], normalize: bool) -> str:
    """Return the 32 hex digits that name the space of codes.

    Covers the encoder's weights, the preprocessing with its linear map if there is one, the levels and the
    rule of selection; not the decode gains, metrics or names.
    """
    rule = {"code": "relu-topk-lowest-latent-first", "levels": list(levels), "normalize": normalize}
    digest = hashlib.sha256(json.dumps(rule, sort_keys=True).encode())
    names = (*_CODE_TENSORS, _LINEAR_MAP) if _LINEAR_MAP in tensors else _CODE_TENSORS
    for name in names:
        array = tensors[name].detach().cpu().numpy().astype("<f4")
        digest.update(f"{name}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()[:32]


def write_artifact(folder: Path, manifest: Manifest, tensors: Mapping[str, Tensor]) -> Manifest:
    """Write the folder; it appears complete or not at all. Returns the manifest as stored.

    Raises:
        ArtifactExists: The folder exists.
        ArtifactError: A metric is no finite number, or the file system refused.
    """
    weights = save_tensors({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    stored = asdict(manifest) | {
        "levels": list(manifest.levels),
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "metrics": {name: _finite(name, value) for name, value in manifest.metrics.items()},
    }
    config = json.dumps(stored, indent=2, sort_keys=True, allow_nan=False) + "\n"
    try:
        with new_folder(folder) as unfinished:
            (unfinished / WEIGHTS_FILE).write_bytes(weights)
            (unfinished / CONFIG_FILE).write_text(config, encoding="utf-8")
    except FileExistsError as error:
        raise ArtifactExists(f"{folder} exists; artifacts are never overwritten") from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise ArtifactError(f"cannot write {folder}: {error}") from error
    return _manifest(stored, folder)


def read_artifact(folder: Path) -> tuple[Manifest, dict[str, Tensor]]:
    """Read and check a folder that `write_artifact` wrote.

    Raises:
        ArtifactTooNew: Its format version is above `FORMAT_VERSION`.
        ArtifactCorrupt: A file is missing or unreadable, the tensor file's SHA-256 differs, a field or tensor
            is missing, unknown, of another type or shape or out of range, or weights and configuration do not
            give the recorded fingerprint.
    """
    stored = _read_config(folder)
    manifest = _manifest(stored, folder)
    try:
        weights = (folder / WEIGHTS_FILE).read_bytes()
    except OSError as error:
        raise ArtifactCorrupt(f"{folder}: cannot read {WEIGHTS_FILE}: {error}") from error
    if hashlib.sha256(weights).hexdigest() != manifest.weights_sha256:
        raise ArtifactCorrupt(f"{folder}: {WEIGHTS_FILE} does not have the SHA-256 in {CONFIG_FILE}")
    try:
        tensors = load_tensors(weights)
    except (SafetensorError, KeyError) as error:  # KeyError: a dtype that torch does not have
        raise ArtifactCorrupt(f"{folder}: {WEIGHTS_FILE} is not safetensors: {error}") from error
    _check_tensors(folder, manifest, tensors)
    return manifest, tensors


def _finite(name: object, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # RuntimeError: a tensor of several values
        number = math.nan
    if not (isinstance(name, str) and math.isfinite(number)):
        raise ArtifactError(f"metrics[{name!r}] is {value!r}; a metric is a finite number under a name")
    return number


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        stored = json.loads((folder / CONFIG_FILE).read_bytes(), object_pairs_hook=_distinct)
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactCorrupt(f"{folder}: cannot read {CONFIG_FILE}: {error}") from error
    version = stored.get("format_version") if isinstance(stored, dict) else None
    if type(version) is not int or version < 1:
        raise ArtifactCorrupt(f"{folder}: {CONFIG_FILE} has no format_version")
    if version > FORMAT_VERSION:
        raise ArtifactTooNew(
            f"{folder} has format version {version}; this release reads up to {FORMAT_VERSION}, upgrade it"
        )
    assert isinstance(stored, dict)
    return stored if version == FORMAT_VERSION else {**_ADDED_IN_2, **stored, "format_version": FORMAT_VERSION}


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a field is there twice")
    return fields


def _manifest(stored: Mapping[str, Any], folder: Path) -> Manifest:
    file = f"{folder}/{CONFIG_FILE}"
    if stored.keys() != _CONFIG_TYPES.keys():
        raise ArtifactCorrupt(f"{file} lacks or adds {sorted(stored.keys() ^ _CONFIG_TYPES.keys())}")
    for name, types in _CONFIG_TYPES.items():
        if type(stored[name]) not in types:
            raise ArtifactCorrupt(f"{file}: {name} is {stored[name]!r:.80}; it must be of type {types[0].__name__}")
    levels, input_dim, hidden_dim = stored["levels"], stored["input_dim"], stored["hidden_dim"]
    if input_dim < 1 or not 1 <= hidden_dim <= LATENTS_MAX:
        raise ArtifactCorrupt(
            f"{file}: {hidden_dim} latents of {input_dim} dimensions; 1 … {LATENTS_MAX} of at least 1"
        )
    whole = all(type(k) is int and 1 <= k <= hidden_dim for k in levels)
    if not levels or not whole or levels != sorted(set(levels)):
        raise ArtifactCorrupt(f"{file}: levels are {levels!r:.80}; they must ascend within 1 … {hidden_dim}")
    if stored["usage_rows"] < 0:
        raise ArtifactCorrupt(f"{file}: usage_rows is {stored['usage_rows']}; it must be at least 0")
    for name, value in stored["metrics"].items():
        if type(value) not in (int, float):
            raise ArtifactCorrupt(f"{file}: metrics[{name!r}] is {value!r:.80}; it must be a number")
    return Manifest(**{**stored, "levels": tuple(levels)})


def _check_tensors(folder: Path, manifest: Manifest, tensors: Mapping[str, Tensor]) -> None:
    """Check names, shapes, dtypes and values of all tensors, and the weights' fingerprint."""
    references = (
        tensors["reference.embeddings"].numel() // manifest.input_dim if "reference.embeddings" in tensors else 0
    )
    expected = _expected_tensors(manifest, references)
    if wrong := sorted(expected.keys() ^ tensors.keys()):
        raise ArtifactCorrupt(f"{folder}: {WEIGHTS_FILE} lacks or adds {wrong} by what {CONFIG_FILE} says")
    for name, (dtype, shape) in expected.items():
        tensor = tensors[name]
        if (tensor.dtype, tuple(tensor.shape)) != (dtype, shape):
            raise ArtifactCorrupt(
                f"{folder}: tensor {name} is {tensor.dtype} {tuple(tensor.shape)}; it must be {dtype} {shape}"
            )
        if dtype == torch.float32 and not bool(tensor.isfinite().all()):
            raise ArtifactCorrupt(f"{folder}: tensor {name} holds NaN or Inf")
    for name, highest in (("usage", manifest.usage_rows), ("reference.latents", manifest.hidden_dim - 1)):
        if int(tensors[name].min()) < 0 or int(tensors[name].max()) > highest:
            raise ArtifactCorrupt(f"{folder}: tensor {name} holds a number outside 0 … {highest}")
    try:
        checked_rows(tensors["reference.embeddings"], manifest.input_dim)
    except InvalidVector as error:
        raise ArtifactCorrupt(f"{folder}: reference {error}") from error
    if fingerprint(tensors, manifest.levels, manifest.normalize) != manifest.fingerprint:
        raise ArtifactCorrupt(f"{folder}: weights and configuration do not give the fingerprint in {CONFIG_FILE}")


def _expected_tensors(manifest: Manifest, references: int) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """Return dtype and shape of every tensor by its name; at least one row is a reference."""
    d, h, r = manifest.input_dim, manifest.hidden_dim, max(1, references)
    floats: dict[str, tuple[int, ...]] = {
        "weight": (h, d),
        "latent_bias": (h,),
        "pre_bias": (d,),
        "mean": (d,),
        "scale": (),
        "log_gain": (len(decoded_ks(manifest.levels, h)),),
        "reference.embeddings": (r, d),
        "reference.weights": (r, manifest.levels[-1]),
    }
    if manifest.linear_map:
        floats[_LINEAR_MAP] = (d, d)
    whole = {"usage": (h,), "reference.latents": (r, manifest.levels[-1])}
    return {name: (torch.float32, shape) for name, shape in floats.items()} | {
        name: (torch.int64, shape) for name, shape in whole.items()
    }
