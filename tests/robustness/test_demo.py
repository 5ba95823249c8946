"""`csr demo` is interrupted."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from orchestration.stack.components import ray_folder
from services.runtime.settings import Settings
from tests.support.stack import LocalStack, finish, survivors

START_SECONDS_MAX = 540.0
"""The first demo on a machine embeds 8,000 texts."""


STAGES: dict[str, Callable[[LocalStack], bool]] = {
    "ray starts": lambda local: local.state().get("ray") is not None,
    "workers train": lambda local: any(local.folder.glob("train/*/ray/*")),
    "router starts": lambda local: local.state().get("router") is not None,
}


@pytest.mark.slow
@pytest.mark.robustness
@pytest.mark.timeout(900)
@pytest.mark.parametrize("stage", STAGES)
def test_ctrl_c_in_the_demo_stops_everything(tmp_path: Path, stage: str) -> None:
    """People who have seen enough would be left with processes that nobody ends."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    local = LocalStack(tmp_path, f"sqlite:///{tmp_path / 'mlflow.db'}", inherited)
    demo = local.start("demo")
    deadline = time.monotonic() + START_SECONDS_MAX
    while not STAGES[stage](local):
        assert demo.poll() is None, demo.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    records = local.state().processes
    demo.send_signal(signal.SIGINT)
    done = finish(demo)
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    assert survivors(records) == []
    assert local.state().processes == ()
    folder = ray_folder(Settings(data_dir=tmp_path))
    assert not folder.exists()
    assert not any(tmp_path.glob("train/*"))
    assert not [process for process in psutil.process_iter(["cmdline"]) if str(folder) in str(process.info["cmdline"])]
