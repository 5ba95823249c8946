"""The typer app, how commands print, and how they fail.

Exit codes: 0 done · 1 it did not work, one line on standard error says why · 2 wrong usage · 3 a gate failed ·
130 Ctrl-C.
"""

import json
import os
import sys
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from services.runtime.settings import Settings, load_settings

GATE_FAILED = 3

EXPECTED = {
    "csr_model.errors.CSRModelError",
    "orchestration.cli.bench.NoBenchmarks",
    "orchestration.data.cache.DataUnavailable",
    "orchestration.ray_session.RayUnavailable",
    "orchestration.stack.state.StackError",
    "orchestration.train_trainer.TrainingFailed",
    "services.encoder.backbone.BackboneUnusable",
    "services.runtime.errors.CsrError",
    "services.runtime.settings.InvalidSettings",
}
"""Errors whose text is one line for people, saying what to do."""

app = typer.Typer(
    name="csr",
    help="Contrastive Sparse Representation embeddings: train, promote, serve, search.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

# Where output is no terminal, rich would squeeze tables into 80 columns.
out = Console(width=None if sys.stdout.isatty() else 120)
err = Console(stderr=True, width=None if sys.stderr.isatty() else 120)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]


def settings() -> Settings:
    """Load the settings; kept out of import time so that `csr --help` never fails on them."""
    return load_settings()


def print_json(value: Any) -> None:
    """Print one JSON document for machines."""
    typer.echo(json.dumps(value, indent=2, default=str))


def step(text: str) -> None:
    """Say on standard error what is being done."""
    err.print(f"[dim]•[/dim] {text}", highlight=False)


def main() -> None:
    """Run the command line; every expected failure is one line and an exit code."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Threads that spin while they wait starve each other on few cores; libgomp reads these when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    try:
        app()
    except Exception as error:
        if not _is_expected(error):
            raise
        err.print("error:", Text(str(error)), style="red", highlight=False, soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        err.print("interrupted")
        sys.exit(130)


def _is_expected(error: Exception) -> bool:
    """Whether an error's text is written for people; compares names, because importing all of them takes seconds."""
    return any(f"{kind.__module__}.{kind.__name__}" in EXPECTED for kind in type(error).__mro__)
