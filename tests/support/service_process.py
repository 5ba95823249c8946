"""A service in a process of its own, which a test may kill and start again on the same ports."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS_MAX = 60.0


class ServiceProcess:
    """`python -m MODULE` with settings from the environment.

    Args:
        module: Such as services.router.
        name: Names its log file.
        port: gRPC port that the environment tells it to listen on.
        folder: Where its log goes.
        environment: Settings, as environment variables.
    """

    def __init__(self, module: str, name: str, port: int, folder: Path, environment: dict[str, str]) -> None:
        self.name = name
        self.port = port
        self.log = folder / f"{name}.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._module = module
        self._environment = {
            **os.environ,
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'protos'}",
            "OMP_NUM_THREADS": "1",
            **environment,
        }

    @property
    def address(self) -> str:
        """host:port of its gRPC server."""
        return f"127.0.0.1:{self.port}"

    def start(self, wait: bool = True) -> None:
        """Start the process; with `wait`, until it reports SERVING."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", self._module],
                cwd=ROOT,
                env=self._environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        if wait:
            self.wait_until_serving()

    def wait_until_serving(self) -> None:
        """Return when the process reports SERVING."""
        assert self.process is not None, "the process was started"
        deadline = time.monotonic() + START_SECONDS_MAX
        while not self.serving():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"{self.name} did not become ready:\n{self.log.read_text()}")
            time.sleep(0.05)

    def serving(self) -> bool:
        """Return whether the process reports SERVING now."""
        with grpc.insecure_channel(self.address) as channel:
            try:
                reply = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=1.0)
            except grpc.RpcError:
                return False
        return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)

    def kill(self) -> None:
        """SIGKILL, as the kernel does when memory runs out; nothing happens when it does not run."""
        self._end(signal.SIGKILL)

    def stop(self) -> int | None:
        """SIGTERM; return the exit code after the drain."""
        return self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> int | None:
        if self.process is None:
            return None
        self.process.send_signal(how)
        code = self.process.wait(timeout=30)
        self.process = None
        return code
