"""A service in a process of its own, which a test may kill and start again on the same ports."""

import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from tests.support.redis_server import free_port

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS_MAX = 120.0


class ServiceProcess:
    """`python -m services.NAME` with settings from the environment, on free ports.

    Args:
        service: `router` or `index`: its package, and its section of the settings.
        name: Names its log file.
        folder: Where its log goes.
        settings: As environment variables (`CSR_INDEX__POLL_MAX_MS="5"`).
    """

    def __init__(self, service: str, name: str, folder: Path, **settings: str) -> None:
        self.name = name
        self.port = free_port()
        self.metrics_port = free_port()
        self.log = folder / f"{name}.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._command = [sys.executable, "-m", f"services.{service}"]
        self._environment = {
            **os.environ,
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'protos'}",
            "OMP_NUM_THREADS": "1",
            f"CSR_{service.upper()}__PORT": str(self.port),
            f"CSR_{service.upper()}__METRICS_PORT": str(self.metrics_port),
            **settings,
        }

    def set(self, **settings: str) -> None:
        """Change settings for the next start."""
        self._environment |= settings

    @property
    def address(self) -> str:
        """host:port of its gRPC server."""
        return f"127.0.0.1:{self.port}"

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self.process is not None and self.process.poll() is None

    def start(self, wait: bool = True) -> None:
        """Start the process; with `wait`, until it reports SERVING."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                self._command, cwd=ROOT, env=self._environment, stdout=output, stderr=subprocess.STDOUT
            )
        if wait:
            self.wait_until_serving()

    def wait_until_serving(self) -> None:
        """Return when the process reports SERVING."""
        deadline = time.monotonic() + START_SECONDS_MAX
        while not self.serving():
            if not self.running or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"{self.name} did not become ready:\n{self.log.read_text()}")
            time.sleep(0.05)

    def serving(self) -> bool:
        """Return whether the process reports SERVING now."""
        # A connection of its own: a shared one waits longer after every failure.
        with grpc.insecure_channel(self.address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            try:
                reply = health.Check(health_pb2.HealthCheckRequest(), timeout=1.0)
            except grpc.RpcError:
                return False
        return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)

    def kill(self) -> None:
        """SIGKILL, as the kernel does when memory runs out; nothing when it does not run."""
        if self.process is not None:
            self._end(signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM; return the exit code after the drain."""
        return self._end(signal.SIGTERM)

    def pause(self) -> None:
        """SIGSTOP: it holds its connections and reads nothing."""
        self._running().send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._running().send_signal(signal.SIGCONT)

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of a metric over the samples with these labels, from the metrics port."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=5.0) as reply:
            families = text_string_to_metric_families(reply.read().decode())
            return sum(
                sample.value
                for family in families
                for sample in family.samples
                if sample.name == name and labels.items() <= sample.labels.items()
            )

    def _running(self) -> "subprocess.Popen[bytes]":
        assert self.process is not None, f"{self.name} was started"
        return self.process

    def _end(self, how: signal.Signals) -> int:
        process = self._running()
        process.send_signal(how)
        self.process = None
        return process.wait(timeout=30)
