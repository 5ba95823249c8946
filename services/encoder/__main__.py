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

from services.encoder.environment import RAY_SERVE_ENVIRONMENT, local_serve_environment
from services.encoder.health import encoder_not_ready
from services.runtime.logging import configure_logging
from services.runtime.settings import InvalidSettings, Settings, load_settings

log = structlog.get_logger()

READY_SECONDS: Final = 120.0
"""Longest wait for replicas to start and the port to answer."""


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
        try:
            _serve(settings, Path(folder))
        except Exception as error:
            log.error("encoder failed", error=str(error))
            return 1
    log.info("stopped")
    return 0


def _serve(settings: Settings, folder: Path) -> None:
    started = time.monotonic()
    cluster = os.environ.get("RAY_ADDRESS")
    # Ray reads its environment when it is imported, and hands it to the processes that it starts.
    os.environ.update(RAY_SERVE_ENVIRONMENT if cluster else local_serve_environment(folder))
    import ray

    from services.encoder import app

    options = {"address": cluster} if cluster else _local_cluster(settings)
    ray.init(**options, log_to_driver=False, logging_level=logging.WARNING)
    stop = _stop_event()
    try:
        app.start(settings)
        if _ready(settings, stop, app.running):
            log.info("ready", address=settings.encoder.address, seconds=round(time.monotonic() - started, 1))
            stop.wait()
    finally:
        app.stop()
        ray.shutdown()


def _local_cluster(settings: Settings) -> dict[str, object]:
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


if __name__ == "__main__":
    sys.exit(main())
