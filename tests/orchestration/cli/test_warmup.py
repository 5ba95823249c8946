"""`csr warmup`."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]


def warmed() -> dict[str, Any]:
    """Run the command in a process of its own and return what it reports."""
    command = [sys.executable, "-m", "orchestration.cli", "warmup", "--json"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_the_second_start_compiles_nothing() -> None:
    """Index servers would compile for a minute at every start, and images would bring a cache that nobody reads."""
    first, second = warmed(), warmed()
    assert first["compiled"] + first["cached"] == second["cached"] > 0
    assert (second["compiled"], second["folder"]) == (0, first["folder"])
    assert list(Path(second["folder"]).rglob("*search_sealed*.nbc"))
