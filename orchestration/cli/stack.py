"""csr up, down, status: the local stack."""

import signal
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

import typer
from rich.table import Table

from orchestration.cli.app import Json, app, out, print_json, settings, step
from orchestration.stack.stack import Stack
from services.runtime.settings import Settings


def backbone_folder(loaded: Settings) -> Path | None:
    """Return the backbone for the champion's texts: the configured one, else the packaged one if it matches."""
    from orchestration.data.catalog import MINILM_NAME, fetch_backbone  # these import torch and MLflow
    from orchestration.registry import BACKBONE_TAG, Registry

    if loaded.encoder.backbone is not None:
        return loaded.encoder.backbone
    champion = Registry.open(loaded).find(loaded.registry.model)
    if champion is None or champion.tags.get(BACKBONE_TAG) != MINILM_NAME or find_spec("sentence_transformers") is None:
        return None
    return fetch_backbone(loaded.cache_dir)


@app.command()
def up() -> None:
    """Start the local stack, or the processes of it that died, and wait until all of it serves."""
    loaded = settings()
    stack = Stack(loaded)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C: with nothing left running
    stack.up(step, backbone=lambda: backbone_folder(loaded))
    where = f"{loaded.router.host}:{loaded.router.port}"
    out.print(f"The stack serves on {where}; `csr status` shows it, `csr down` ends it.")


@app.command()
def down() -> None:
    """Stop the local stack; its data stays."""
    Stack(settings()).down(step)


@app.command()
def status(json: Json = False) -> None:
    """Show every process of the local stack as it is right now; exit code 1 unless all are ready."""
    reports = Stack(settings()).status()
    if json:
        print_json([asdict(report) for report in reports])
    else:
        table = Table("process", "address", "pid", "state")
        for report in reports:
            colour = "green" if report.ready else "red"
            table.add_row(report.name, report.address, str(report.pid or "-"), f"[{colour}]{report.detail}[/{colour}]")
        out.print(table)
    if not all(report.ready for report in reports):
        raise typer.Exit(1)
