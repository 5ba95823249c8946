"""python -m services.encoder: deploy the encoder on Ray and stay until SIGTERM or SIGINT."""

import argparse
import logging
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from services.encoder.environment import RAY_SERVE_ENVIRONMENT, local_serve_environment, port_is_free
from services.encoder.health import encoder_not_ready, replicas_down
from services.runtime.logging import configure_logging
from services.runtime.settings import InvalidSettings, Settings, load_settings

log = structlog.get_logger()

READY_SECONDS: Final = 120.0
"""Longest wait for replicas to start and the port to answer."""
LOST_SECONDS: Final = 30.0
"""Time without a healthy replica after which the cluster must be gone: Serve replaces replicas sooner."""


def main() -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m services.encoder", description=__doc__)
    parser.add_argument("--check-config", action="store_true", help="only check the settings")
    arguments = parser.parse_args()
    try:
        settings = load_settings()
    except InvalidSettings as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 2
    if arguments.check_config:
        return 0
    configure_logging(settings.logging, "encoder")
    with tempfile.TemporaryDirectory(prefix="csr-") as folder:
        return _serve(settings, Path(folder))


def _serve(settings: Settings, folder: Path) -> int:
    started = time.monotonic()
    cluster = os.environ.get("RAY_ADDRESS")
    # Ray reads its environment when it is imported, and hands it to the processes that it starts.
    os.environ.update(RAY_SERVE_ENVIRONMENT if cluster else local_serve_environment(folder))
    # Ray ends this process when its cluster has been gone for so long: sooner than its default of a minute, because
    # stopping waits for it, but later than the 20 s after which a failed connection becomes an error to report.
    os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", "25")
    import ray

    from services.encoder import app

    try:
        options = {"address": cluster} if cluster else _local_cluster(settings)
        ray.init(**options, log_to_driver=False, logging_level=logging.WARNING)
        stop = _stop_event()
        app.start(settings)
        if _ready(settings, stop, app.running):
            log.info("ready", address=settings.encoder.address, seconds=round(time.monotonic() - started, 1))
            _stay(settings.encoder.address, stop)
        log.info("stopping")
        return 0
    except Exception as error:
        log.error("encoder failed", error=str(error))  # now: Ray may end this process when its cluster is gone
        return 1
    finally:
        if ray.is_initialized():
            app.stop()
            ray.shutdown()


def _local_cluster(settings: Settings) -> dict[str, object]:
    encoder = settings.encoder
    for port in (encoder.port, encoder.http_port):
        if not port_is_free(port, encoder.host):  # HAProxy would share it without a word
            raise OSError(f"port {port} on {encoder.host} is taken")
    return {
        "address": "local",
        "include_dashboard": False,
        "_metrics_export_port": settings.stack.ray_metrics_port,
    }


def _stop_event() -> threading.Event:
    """Return what SIGTERM and SIGINT set. They raise nothing: inside Ray's C++ code, exceptions get lost."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def _ready(settings: Settings, stop: threading.Event, running: Callable[[], bool]) -> bool:
    """Wait until all replicas run and answer (True) or the process is asked to stop (False)."""
    address = settings.encoder.address
    deadline = time.monotonic() + READY_SECONDS
    while not stop.wait(0.2):
        reason = encoder_not_ready(address) if running() else "replicas are starting"
        if reason is None:
            return True
        if time.monotonic() > deadline:
            raise TimeoutError(f"no replica answers at {address} after {READY_SECONDS:.0f} s: {reason}")
    return False


def _stay(address: str, stop: threading.Event) -> None:
    """Return when the process is asked to stop; raise when the encoder is gone for good."""
    healthy = time.monotonic()
    while not stop.wait(5.0):
        reason = replicas_down(address)
        if reason is None:
            healthy = time.monotonic()
        elif time.monotonic() - healthy > LOST_SECONDS:
            raise ConnectionError(f"no healthy replica at {address} for {LOST_SECONDS:.0f} s: {reason}")


if __name__ == "__main__":
    sys.exit(main())
