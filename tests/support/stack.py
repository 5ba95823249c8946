"""The local stack of `csr up` on ports and in a folder of its own."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil

from orchestration.stack.processes import ProcessRecord
from orchestration.stack.state import StackState, read_state
from services.client import Client
from services.runtime.settings import load_settings

ROOT = Path(__file__).resolve().parents[2]
COMMAND_SECONDS_MAX = 240.0
INDEX_SERVERS = 2


Finished = subprocess.CompletedProcess[str]


class LocalStack:
    """What `csr` sees of one data folder.

    Args:
        folder: Becomes the data folder.
        registry_uri: Of MLflow.
        inherited: Environment to start from; what would point to other stacks is left out.
    """

    def __init__(self, folder: Path, registry_uri: str, inherited: Mapping[str, str]) -> None:
        self.folder = folder
        self.state_path = folder / "stack" / "stack.json"
        port = free_ports(12)
        self.router_port, self.router_metrics_port = port, port + 1
        self.index_port, self.index_metrics_port = port + 2, port + 2 + INDEX_SERVERS
        self.redis_port, self.encoder_port = port + 6, port + 7
        kept = {name: value for name, value in inherited.items() if not name.startswith(("CSR_", "REDIS_", "MLFLOW_"))}
        self.environment = {
            **kept,
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'protos'}",
            "OMP_NUM_THREADS": "1",
            "CSR_DATA_DIR": str(folder),
            "CSR_CACHE_DIR": str(load_settings().cache_dir),
            "MLFLOW_TRACKING_URI": registry_uri,
            "CSR_REDIS__URL": f"redis://127.0.0.1:{self.redis_port}/0",
            "CSR_REDIS__TIMEOUT_SECONDS": "5",
            "CSR_ROUTER__PORT": str(self.router_port),
            "CSR_ROUTER__METRICS_PORT": str(self.router_metrics_port),
            "CSR_INDEX__PORT": str(self.index_port),
            "CSR_INDEX__METRICS_PORT": str(self.index_metrics_port),
            "CSR_ENCODER__PORT": str(self.encoder_port),
            "CSR_ENCODER__HTTP_PORT": str(port + 8),
            "CSR_ENCODER__REPLICAS": "1",
            "CSR_STACK__INDEX_SERVERS": str(INDEX_SERVERS),
            "CSR_STACK__RAY_PORT": str(port + 9),
            "CSR_STACK__RAY_METRICS_PORT": str(port + 10),
            "CSR_STACK__RAY_DASHBOARD_PORT": str(port + 11),
        }

    def start(self, *arguments: str, **variables: str) -> "subprocess.Popen[str]":
        """Start a `csr` command; `variables` go on top of its environment."""
        return subprocess.Popen(
            [sys.executable, "-m", "orchestration.cli", *arguments],
            cwd=ROOT,
            env=self.environment | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def csr(self, *arguments: str, **variables: str) -> Finished:
        """Run a `csr` command to its end, whatever that is."""
        return finish(self.start(*arguments, **variables))

    def up(self) -> None:
        """`csr up`, which must succeed."""
        done = self.csr("up")
        assert done.returncode == 0, f"csr up:\n{done.stdout}{done.stderr}\n{self.logs()}"

    def down(self) -> None:
        """`csr down`, which must succeed."""
        done = self.csr("down")
        assert done.returncode == 0, f"csr down:\n{done.stdout}{done.stderr}"

    def status(self) -> tuple[int, dict[str, dict[str, Any]]]:
        """`csr status --json`: exit code, and its reports by name."""
        done = self.csr("status", "--json")
        return done.returncode, {report["name"]: report for report in json.loads(done.stdout)}

    def state(self) -> StackState:
        """What the stack recorded."""
        return read_state(self.state_path) or StackState()

    def record(self, name: str) -> ProcessRecord:
        """The record of a process that was started."""
        record = self.state().get(name)
        assert record is not None, f"{name} was never started"
        return record

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to a process and, when it kills, wait until that is done."""
        process = psutil.Process(self.record(name).pid)
        process.send_signal(number)
        if number in (signal.SIGKILL, signal.SIGTERM):
            psutil.wait_procs([process], timeout=60)

    def client(self, timeout_seconds: float = 30.0) -> Client:
        """Return a client of the router."""
        return Client(f"127.0.0.1:{self.router_port}", timeout_seconds)

    def logs(self) -> str:
        """The end of every log."""
        logs = sorted((self.folder / "stack" / "logs").glob("*.log"))
        return "\n".join(f"{log.name}:\n{log.read_text(errors='replace')[-2000:]}" for log in logs)


def finish(command: "subprocess.Popen[str]", seconds: float = COMMAND_SECONDS_MAX) -> Finished:
    """Wait for a command to end, and return how it did."""
    try:
        output, errors = command.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        command.kill()
        raise
    return subprocess.CompletedProcess(command.args, command.returncode, output, errors)


def survivors(records: Iterable[ProcessRecord]) -> list[str]:
    """Return the command lines of recorded processes, and of processes in their sessions, that still run."""
    sessions = {record.pid for record in records}
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) in sessions and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
        except (psutil.Error, ProcessLookupError, PermissionError):
            continue
    return found


def free_ports(count: int) -> int:
    """Return the first of that many free ports in a row.

    They lie below 7,000: the stack's defaults, Ray's workers, Ray Serve's replicas and the kernel's choices are above.
    """
    while True:
        first = random.randrange(4_000, 7_000 - count)
        with ExitStack() as probes:
            try:
                for port in range(first, first + count):
                    probes.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
        return first
