"""The stored form of an adapter: a folder with `adapter.safetensors` and `config.json`, never pickle.

`config.json` says what the adapter is (format version, dimensions, levels, preprocessing, fingerprint,
SHA-256 of the tensor file) and where it comes from (training configuration, data digest, metrics,
backbone). The tensor file holds the weights and, beside them, the usage of each latent over the
training rows and a few reference embeddings with their codes.

The fingerprint names a space of codes: the first 32 hex digits of a SHA-256 over everything that
decides a code, and nothing else. Two adapters with one fingerprint encode alike.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from csr_model.errors import ArtifactCorrupt, ArtifactError, ArtifactExists, ArtifactTooNew
from csr_model.new_folder import new_folder

FORMAT_VERSION = 2
WEIGHTS_FILE = "adapter.safetensors"
CONFIG_FILE = "config.json"

_CODE_TENSORS = ("latent_bias", "mean", "pre_bias", "scale", "weight")
_LINEAR_MAP = "linear_map"
_ADDED_IN_2 = {_LINEAR_MAP: False}


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
        ArtifactError: The file system refused.
    """
    folder = Path(folder)
    weights = save_tensors({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    stored = asdict(manifest) | {"weights_sha256": hashlib.sha256(weights).hexdigest()}
    try:
        with new_folder(folder) as unfinished:
            (unfinished / WEIGHTS_FILE).write_bytes(weights)
            (unfinished / CONFIG_FILE).write_text(json.dumps(stored, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    except FileExistsError as error:
        raise ArtifactExists(f"{folder} exists; artifacts are never overwritten") from error
    except OSError as error:
        raise ArtifactError(f"cannot write {folder}: {error}") from error
    return _manifest(stored, folder)


def read_artifact(folder: Path) -> tuple[Manifest, dict[str, Tensor]]:
    """Read and check a folder that `write_artifact` wrote.

    Raises:
        ArtifactTooNew: Its format version is above `FORMAT_VERSION`.
        ArtifactCorrupt: A file is missing or unreadable, the tensor file's SHA-256 differs, or weights
            and configuration do not give the recorded fingerprint.
    """
    folder = Path(folder)
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
    except SafetensorError as error:
        raise ArtifactCorrupt(f"{folder}: {WEIGHTS_FILE} is not safetensors: {error}") from error
    _check_tensors(folder, manifest, tensors)
    return manifest, tensors


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        stored = json.loads((folder / CONFIG_FILE).read_bytes())
    except (OSError, ValueError) as error:
        raise ArtifactCorrupt(f"{folder}: cannot read {CONFIG_FILE}: {error}") from error
    version = stored.get("format_version") if isinstance(stored, dict) else None
    if not isinstance(version, int) or version < 1:
        raise ArtifactCorrupt(f"{folder}: {CONFIG_FILE} has no format_version")
    if version > FORMAT_VERSION:
        raise ArtifactTooNew(
            f"{folder} has format version {version}; this release reads up to {FORMAT_VERSION}, upgrade it"
        )
    assert isinstance(stored, dict)
    return stored if version == FORMAT_VERSION else {**_ADDED_IN_2, **stored, "format_version": FORMAT_VERSION}


def _manifest(stored: Mapping[str, Any], folder: Path) -> Manifest:
    known = {field.name for field in fields(Manifest)}
    if stored.keys() != known:
        raise ArtifactCorrupt(f"{folder}: {CONFIG_FILE} lacks or adds {sorted(stored.keys() ^ known)}")
    levels = stored["levels"]
    if not isinstance(levels, list | tuple) or not levels or not all(isinstance(k, int) for k in levels):
        raise ArtifactCorrupt(f"{folder}: levels in {CONFIG_FILE} are not a list of whole numbers")
    return Manifest(**{**stored, "levels": tuple(levels)})


def _check_tensors(folder: Path, manifest: Manifest, tensors: Mapping[str, Tensor]) -> None:
    h, d = manifest.hidden_dim, manifest.input_dim
    shapes = {"weight": (h, d), "latent_bias": (h,), "pre_bias": (d,), "mean": (d,), "scale": (), "usage": (h,)}
    if manifest.linear_map:
        shapes[_LINEAR_MAP] = (d, d)
    elif _LINEAR_MAP in tensors:
        raise ArtifactCorrupt(f"{folder}: there is a linear map that {CONFIG_FILE} does not mention")
    for name, shape in shapes.items():
        if name not in tensors or tuple(tensors[name].shape) != shape:
            raise ArtifactCorrupt(f"{folder}: tensor {name} is missing or not of shape {shape}")
    if any(tensors[name].dtype != torch.float32 for name in shapes.keys() - {"usage"}):
        raise ArtifactCorrupt(f"{folder}: weights are not float32")
    if fingerprint(tensors, manifest.levels, manifest.normalize) != manifest.fingerprint:
        raise ArtifactCorrupt(f"{folder}: weights and configuration do not give the fingerprint in {CONFIG_FILE}")
