"""A Ray cluster for the length of a job: the one that is running, or a private one on this machine."""

import logging
import math
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import psutil
import ray
import torch

from orchestration import owned_folders
from services.runtime.settings import TrainingSettings

_REACH_SECONDS: Final = 3.0
_END_SECONDS: Final = 5.0
_FOLDER_PREFIX: Final = "csr-ray-"
_OBJECT_STORE_BYTES: Final = 128 << 20
"""Training data are memory-mapped; only reports pass through the object store."""
_QUIET: Final = {"log_to_driver": False, "logging_level": logging.ERROR}


class RayUnavailable(Exception):
    """No Ray cluster can be used; the text is one line that says why and what to do."""


@contextmanager
def ray_session(settings: TrainingSettings) -> Iterator[None]:
    """Use the Ray cluster of this process, else the one at RAY_ADDRESS, else a private one that ends with the block.

    Raises:
        RayUnavailable: nothing answers at RAY_ADDRESS, or a private cluster does not start.
    """
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS")
    with _connection(address) if address else _private_cluster(settings):
        yield


@contextmanager
def _connection(address: str) -> Iterator[None]:
    _check_reachable(address)
    try:
        ray.init(address=address, **_QUIET)
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        raise RayUnavailable(f"cannot use the Ray cluster at RAY_ADDRESS={address}: {_first_line(error)}") from error
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _private_cluster(settings: TrainingSettings) -> Iterator[None]:
    # Ray's sockets lie below this folder, and their paths must stay under 108 bytes.
    owned_folders.sweep(Path(tempfile.gettempdir()), f"{_FOLDER_PREFIX}*")
    with owned_folders.owned_folder(Path(tempfile.mkdtemp(prefix=_FOLDER_PREFIX))) as folder:
        try:
            _start_cluster(settings, folder)
            yield
        finally:
            ray.shutdown()
            _end_processes(folder)


def _end_processes(folder: Path) -> None:
    """End what still writes into the folder: Ray leaves a start that it gave up to the end of this process."""
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if any(str(folder) in word for word in process.cmdline()):
                process.kill()
                process.wait(_END_SECONDS)


def _start_cluster(settings: TrainingSettings, folder: Path) -> None:
    try:
        ray.init(
            address="local",
            num_cpus=max(1, math.ceil(settings.workers * settings.worker_cpus)),
            # Ray sees a GPU that a CPU build of torch cannot use.
            num_gpus=torch.cuda.device_count(),
            object_store_memory=_OBJECT_STORE_BYTES,
            # Without its dashboard Ray Train cannot watch its own controller and says so every second.
            include_dashboard=True,
            dashboard_host="127.0.0.1",
            dashboard_port=0,
            _node_ip_address="127.0.0.1",
            _temp_dir=str(folder),
            **_QUIET,
        )
    except Exception as error:  # Ray raises no narrower one where its processes take too long to start
        raise RayUnavailable(f"Ray does not start: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _check_reachable(address: str) -> None:
    parts = urlsplit(address if "//" in address else f"//{address}")
    if parts.port is None:  # "auto" and the like: Ray knows what it means
        return
    try:
        # Ray itself would try for minutes.
        socket.create_connection((parts.hostname or "", parts.port), timeout=_REACH_SECONDS).close()
    except OSError as error:
        reason = error.strerror or error
        raise RayUnavailable(
            f"no Ray cluster answers at RAY_ADDRESS={address} ({reason}); start it, or unset RAY_ADDRESS"
        ) from error
