"""csr bench: run a benchmark of the checkout."""

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from orchestration.cli.app import app

CHECKOUT = Path(__file__).resolve().parents[2]


class Benchmark(StrEnum):
    """Those that run on their own; the module is named alike, with underscores."""

    ANCHORS = "anchors"
    INDEX = "index"
    QUALITY = "quality"
    SERVICE = "service"
    TRAINING_SPEED = "training-speed"


class NoBenchmarks(Exception):
    """This is an installed wheel, which has no benchmarks."""


@app.command("bench", context_settings={"allow_interspersed_args": False})
def bench(
    name: Annotated[Benchmark, typer.Argument(help="Which one.")],
    arguments: Annotated[list[str] | None, typer.Argument(help="Its own; --help shows them.")] = None,
) -> None:
    """Run a benchmark of the checkout: `csr bench index --quick` is `python -m benchmarks.index --quick`."""
    module = name.replace("-", "_")
    if not (CHECKOUT / "benchmarks" / f"{module}.py").is_file():
        raise NoBenchmarks(f"no benchmarks in {CHECKOUT}: they are part of the source, clone it and run csr there")
    # In place of this process, so that signals and the exit status are the benchmark's own. -P keeps a folder
    # "benchmarks" where the user happens to be from being taken for ours.
    path = os.pathsep.join(filter(None, (str(CHECKOUT), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-P", "-m", f"benchmarks.{module}", *(arguments or ())]
    os.execve(sys.executable, command, os.environ | {"PYTHONPATH": path})
