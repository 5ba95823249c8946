"""`csr warmup`."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]


def warmed(folder: Path) -> dict[str, Any]:
    """Run the command in a process of its own and return what it reports."""
    environment = os.environ | {"NUMBA_CACHE_DIR": str(folder), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "orchestration.cli", "warmup", "--json"]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_the_second_start_compiles_nothing(tmp_path: Path) -> None:
    """Index servers would compile for many seconds at every start, and images would ship a cache that nobody reads."""
    first, second = warmed(tmp_path), warmed(tmp_path)
    assert Path(first["folder"]).is_relative_to(tmp_path)
    assert list(Path(first["folder"]).glob("*.nbi"))
    assert first["compiled"] > 0
    assert (second["compiled"], second["folder"]) == (0, first["folder"])
    assert second["cached"] > 0
