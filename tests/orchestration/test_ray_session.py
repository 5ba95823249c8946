"""Clusters that do not come up."""

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import ray

from orchestration.ray_session import RayUnavailable, ray_session
from services.runtime.settings import TrainingSettings


def test_a_cluster_that_does_not_start_is_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy machine people would read Ray's traceback, and its processes would fill the disk again."""
    started: list[subprocess.Popen[bytes]] = []

    def gives_up(**options: object) -> None:
        command = [sys.executable, "-c", "import time; time.sleep(600)", f"--temp-dir={options['_temp_dir']}"]
        started.append(subprocess.Popen(command))
        raise Exception("The current node timed out during startup.\nMore")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", gives_up)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    message = r"Ray does not start: The current node timed out during startup\.$"
    with pytest.raises(RayUnavailable, match=message), ray_session(TrainingSettings()):
        pytest.fail("there is no cluster")
    assert started[0].poll() is not None
    assert list(tmp_path.iterdir()) == []
