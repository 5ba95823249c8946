"""Write an adapter as a sentence-transformers folder: the module alone, or with the backbone in front."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from csr_model.adapter import CSRAdapter
from csr_model.errors import ExportRefused
from csr_model.interop.folding import FoldedWeights, fold, folded_difference
from csr_model.interop.model_card import model_card
from csr_model.interop.modules_file import (
    MODULES_FILE,
    NORMALIZE,
    SPARSE_AUTO_ENCODER,
    Module,
    normalizes_rows,
    output_dim,
    read_json,
    read_modules,
)
from csr_model.interop.sparse_auto_encoder import write_module
from csr_model.new_folder import new_folder

CARD_FILE: Final = "README.md"
BACKBONE_CARD_FILE: Final = "README.backbone.md"

_MODEL_CONFIG_FILE: Final = "config_sentence_transformers.json"
# Names since 5.0 and still understood by 6.2; the ones that 6.2 itself writes are unknown to 5.
_SPARSE_AUTO_ENCODER_TYPE: Final = "sentence_transformers.sparse_encoder.models.SparseAutoEncoder"
_NORMALIZE_TYPE: Final = "sentence_transformers.models.Normalize"
_NEVER_COPIED: Final = (".git", ".cache", ".locks")
_TOLERANCE: Final = 1e-6


def export_module(adapter: CSRAdapter, path: str | os.PathLike[str]) -> None:
    """Write a SparseAutoEncoder folder that encodes raw embeddings as the adapter does.

    Codes are equal within 1e-6 after L2 normalisation, save where two pre-activations tie.

    Args:
        adapter: One that does not normalise rows; of its k only k_max is written.
        path: A folder that does not exist yet; it appears whole or not at all.

    Raises:
        ExportRefused: The adapter normalises rows, its codes are not kept in float32, or the folder exists or cannot
            be written.
    """
    if adapter.manifest.normalize:
        raise ExportRefused(
            "normalize is on: a SparseAutoEncoder cannot scale rows to unit length; export the whole model with a "
            "backbone, which gets a Normalize module"
        )
    weights = _folded(adapter)
    with _created(Path(path)) as folder:
        write_module(folder, weights, adapter.k_max)
        (folder / CARD_FILE).write_text(model_card(adapter, whole=False), encoding="utf-8")


def export_model(adapter: CSRAdapter, path: str | os.PathLike[str], backbone: str | os.PathLike[str]) -> None:
    """Write a folder for `SparseEncoder(path)`: a copy of the backbone, then Normalize if needed, then the adapter.

    Codes of texts equal within 1e-6, after L2 normalisation, what the adapter makes of the backbone's embeddings,
    save where two pre-activations tie. The backbone's model card is kept as `README.backbone.md`.

    Args:
        adapter: Of its k only k_max is written.
        path: A folder that does not exist yet; it appears whole or not at all.
        backbone: sentence-transformers folder of the dense model whose embeddings the adapter takes.

    Raises:
        ExportRefused: The backbone is none, or not the adapter's; the adapter's codes are not kept in float32; or
            the folder exists or cannot be written.
    """
    source, target = Path(backbone), Path(path)
    modules = _dense_modules(source, adapter)
    entries = read_json(source / MODULES_FILE, ExportRefused)
    config = _model_config(source, adapter.k_max)
    if target.resolve().is_relative_to(source.resolve()):
        raise ExportRefused(f"path {target} lies inside the backbone; choose one outside of it")
    weights = _folded(adapter)
    if adapter.manifest.normalize and not normalizes_rows(modules, ExportRefused):
        entries.append(_entry(len(entries), NORMALIZE, _NORMALIZE_TYPE))
    entries.append(_entry(len(entries), SPARSE_AUTO_ENCODER, _SPARSE_AUTO_ENCODER_TYPE))
    with _created(target) as folder:
        shutil.copytree(source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*_NEVER_COPIED))
        module = folder / entries[-1]["path"]
        module.mkdir()
        write_module(module, weights, adapter.k_max)
        _write_json(folder / MODULES_FILE, entries)
        _write_json(folder / _MODEL_CONFIG_FILE, config)
        card = folder / CARD_FILE
        if card.exists():
            card.rename(folder / BACKBONE_CARD_FILE)
        card.write_text(model_card(adapter, whole=True), encoding="utf-8")


def _folded(adapter: CSRAdapter) -> FoldedWeights:
    """Return the folded weights after encoding the reference embeddings with them."""
    weights = fold(adapter.autoencoder)
    difference = folded_difference(adapter.autoencoder, weights, adapter.reference_embeddings, adapter.k_max)
    if not difference <= _TOLERANCE:
        raise ExportRefused(
            f"folded codes of the reference embeddings differ by {difference:.2g}, more than {_TOLERANCE:.0e}: the "
            "mean is too large beside the spread for float32; train with normalize on, or on embeddings without it"
        )
    return weights


@contextmanager
def _created(path: Path) -> Iterator[Path]:
    try:
        with new_folder(path) as folder:
            yield folder
    except FileExistsError as error:
        raise ExportRefused(f"path {path} exists; exports are never overwritten, choose another") from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise ExportRefused(f"cannot write {path}: {error}") from error


def _dense_modules(backbone: Path, adapter: CSRAdapter) -> list[Module]:
    """Return the backbone's modules after checking that the adapter can follow them."""
    trained_on = adapter.manifest.backbone
    if trained_on and backbone.resolve().name != trained_on:
        raise ExportRefused(
            f"backbone {backbone} is not {trained_on}, whose embeddings the adapter takes; pass a folder of that name"
        )
    modules = read_modules(backbone, ExportRefused)
    if sparse := [module.kind for module in modules if module.kind.startswith(("Sparse", "Splade"))]:
        raise ExportRefused(f"backbone {backbone} ends in {sparse[-1]}; pass a dense model")
    dim = output_dim(modules, ExportRefused)
    if dim is not None and dim != adapter.input_dim:
        raise ExportRefused(f"backbone {backbone} gives {dim} dimensions; the adapter takes {adapter.input_dim}")
    return modules


def _model_config(backbone: Path, k: int) -> dict[str, Any]:
    """Return the backbone's own configuration (prompts, versions), turned into that of a sparse encoder."""
    file = backbone / _MODEL_CONFIG_FILE
    config = read_json(file, ExportRefused) if file.is_file() else {}
    if not isinstance(config, dict) or config.get("model_type", "SentenceTransformer") != "SentenceTransformer":
        raise ExportRefused(f"{file}: model_type is not SentenceTransformer; pass a dense model")
    # Left as SentenceTransformer, the model would be given a second, random autoencoder on loading.
    return config | {"model_type": "SparseEncoder", "similarity_fn_name": "cosine", "max_active_dims": k}


def _entry(position: int, kind: str, dotted: str) -> dict[str, Any]:
    return {"idx": position, "name": str(position), "path": f"{position}_{kind}", "type": dotted}


def _write_json(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
