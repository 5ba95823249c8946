"""One Ray cluster for the whole test session: a head process of its own, with free ports and a folder of its own."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from services.encoder.environment import local_serve_environment
from tests.support.redis_server import free_port

_START_SECONDS = 60.0


@dataclass(frozen=True)
class RayCluster:
    """A running cluster of one node."""

    address: str
    """Of the head; the value of RAY_ADDRESS."""
    metrics_address: str
    """host:port where Ray serves Prometheus metrics of everything on the node."""
    environment: Mapping[str, str]
    """For processes that connect to the cluster."""
    head: psutil.Process

    @contextmanager
    def joined(self) -> Iterator[None]:
        """Make this the cluster of this process, named by RAY_ADDRESS as for a user."""
        from ray._private.authentication_test_utils import reset_auth_token_state

        with pytest.MonkeyPatch.context() as patch:
            for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"):
                patch.setenv(name, self.environment[name])
            reset_auth_token_state()  # Ray reads these once, when it is imported
            yield

    def processes(self, title: str) -> list[psutil.Process]:
        """Return the node's processes with `title` in their command line, such as "ServeReplica:encoder"."""
        return [process for process in self.head.children(recursive=True) if title in _title(process)]


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[RayCluster]:
    """The session's Ray cluster: 4 logical CPUs, HAProxy before Serve."""
    folder = Path(tempfile.mkdtemp(prefix="csr-ray-"))
    gcs_port, metrics_port = free_port(), free_port()
    address = f"127.0.0.1:{gcs_port}"
    environment = {**os.environ, **local_serve_environment(folder), "OMP_NUM_THREADS": "1"}
    # Ray gives its workers the lowest priority: beside another process of tests they would hardly move.
    environment["RAY_worker_niceness"] = "0"
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    for inherited in ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "PYTEST_CURRENT_TEST"):  # MLflow acts on the last one
        environment.pop(inherited, None)
    options = {
        "node-ip-address": "127.0.0.1",
        "port": gcs_port,
        "metrics-export-port": metrics_port,
        "include-dashboard": "false",
        "dashboard-agent-listen-port": free_port(),
        "ray-client-server-port": free_port(),
        "num-cpus": 4,
        "object-store-memory": 200 << 20,
        "temp-dir": folder,
    }
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"]
    command += [f"--{name}={value}" for name, value in options.items()]
    with (folder / "head.log").open("wb") as log:
        head = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    process = psutil.Process(head.pid)
    try:
        _await_start(head, folder / "head.log")
        yield RayCluster(address, f"127.0.0.1:{metrics_port}", {**environment, "RAY_ADDRESS": address}, process)
    finally:
        _end(process)
        shutil.rmtree(folder, ignore_errors=True)


def _await_start(head: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and head.poll() is None:
        if "Ray runtime started" in log.read_text(errors="replace"):
            return
        time.sleep(0.1)
    raise RuntimeError(f"Ray did not start:\n{log.read_text(errors='replace')[-4000:]}")


def _end(head: psutil.Process) -> None:
    family = [head, *head.children(recursive=True)]
    head.send_signal(signal.SIGTERM)
    _, alive = psutil.wait_procs(family, timeout=5)
    for process in alive:
        process.kill()
    psutil.wait_procs(alive, timeout=5)


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
