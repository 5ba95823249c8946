"""`modules.json` of a sentence-transformers folder: which modules run, in which order."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from csr_model.errors import ExportRefused, ImportRefused

MODULES_FILE: Final = "modules.json"
SPARSE_AUTO_ENCODER: Final = "SparseAutoEncoder"
NORMALIZE: Final = "Normalize"
DROPOUT: Final = "Dropout"

_THEIRS: Final = "sentence_transformers."
_FEATURE: Final = "sentence_embedding"


@dataclass(frozen=True)
class Module:
    """One entry.

    Attributes:
        kind: Class name where the class is sentence-transformers' own, else the full dotted name.
        folder: Of its files; some modules have none.
    """

    kind: str
    folder: Path


def read_modules(folder: Path, refusal: type[ExportRefused | ImportRefused]) -> list[Module]:
    """Return the modules in the order they run.

    Raises:
        refusal: The file is missing or damaged, or a module lies outside the folder.
    """
    file = folder / MODULES_FILE
    entries = read_json(file, refusal)
    if not isinstance(entries, list) or not entries or not all(_is_entry(entry) for entry in entries):
        raise refusal(f"{file} is not a list of modules with path and type")
    modules = [Module(_kind(entry["type"]), folder / entry["path"]) for entry in entries]
    for module in modules:
        if not module.folder.resolve().is_relative_to(folder.resolve()):
            raise refusal(f"{file}: path {str(module.folder)!r} leads out of the folder")
    return modules


def normalizes_rows(modules: list[Module], refusal: type[ExportRefused | ImportRefused]) -> bool:
    """Whether the last of these modules scales the sentence embedding to unit length; Dropout only trains."""
    acting = [module for module in modules if module.kind != DROPOUT]
    if not acting or acting[-1].kind != NORMALIZE:
        return False
    file = acting[-1].folder / "config.json"  # absent until 6.0
    config = read_object(file, refusal) if file.is_file() else {}
    source = config.get("module_input_name", _FEATURE)
    return bool(source == _FEATURE == (config.get("module_output_name") or source))


def output_dim(modules: list[Module], refusal: type[ExportRefused | ImportRefused]) -> int | None:
    """Return the dimension of the sentence embedding, or None where no configuration says it."""
    dim: int | None = None
    for module in modules:
        if module.kind == "Pooling":
            dim = _pooled_dim(read_object(module.folder / "config.json", refusal))
        elif module.kind == "Dense":
            dim = read_object(module.folder / "config.json", refusal).get("out_features")
    return dim


def read_json(file: Path, refusal: type[ExportRefused | ImportRefused]) -> Any:
    """Return what a JSON file holds; raises `refusal` where it cannot be read."""
    try:
        return json.loads(file.read_bytes())
    except OSError as error:
        raise refusal(f"cannot read {file}: {error.strerror}; a sentence-transformers folder has it") from error
    except (ValueError, RecursionError) as error:
        raise refusal(f"{file} is not JSON: {error}") from error


def read_object(file: Path, refusal: type[ExportRefused | ImportRefused]) -> dict[str, Any]:
    """Return the object that a JSON file holds; raises `refusal` where it cannot be read or is none."""
    content = read_json(file, refusal)
    if not isinstance(content, dict):
        raise refusal(f"{file} holds no object of settings; copy it again")
    return content


def _is_entry(entry: object) -> bool:
    if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("path", "type")):
        return False
    return "\0" not in entry["path"]


def _kind(dotted: str) -> str:
    return dotted.rpartition(".")[2] if dotted.startswith(_THEIRS) else dotted


def _pooled_dim(config: dict[str, Any]) -> int | None:
    tokens = config.get("embedding_dimension", config.get("word_embedding_dimension"))
    modes = config.get("pooling_mode")
    if modes is None:  # before 6.0: one flag a mode
        count = sum(value is True for key, value in config.items() if key.startswith("pooling_mode_"))
    else:
        count = len(modes) if isinstance(modes, list) else 1
    return tokens * count if isinstance(tokens, int) and count else None
