"""A Ray cluster for the length of a job: the one that is running, or a private one on this machine."""

import logging
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import ray
import torch

from services.runtime.settings import TrainingSettings

_OBJECT_STORE_BYTES: Final = 128 << 20
"""Training data are memory-mapped; only reports pass through the object store."""


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
    # Ray's sockets lie below this folder, and their paths must stay under 108 bytes.
    scratch = None if address else tempfile.mkdtemp(prefix="csr-ray-")
    try:
        _start(address, scratch, settings)
        yield
    finally:
        ray.shutdown()
        if scratch:
            shutil.rmtree(scratch, ignore_errors=True)


def _start(address: str | None, scratch: str | None, settings: TrainingSettings) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address:
            ray.init(address=address, **quiet)
            return
        ray.init(
            address="local",
            # Ray sees a GPU that a CPU build of torch cannot use.
            num_gpus=torch.cuda.device_count(),
            num_cpus=max(1, math.ceil(settings.workers * settings.worker_cpus)),
            object_store_memory=_OBJECT_STORE_BYTES,
            # Without its dashboard Ray Train cannot watch its own controller and says so every second.
            include_dashboard=True,
            dashboard_host="127.0.0.1",
            dashboard_port=0,
            _temp_dir=scratch,
            **quiet,
        )
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        where = f"no Ray cluster answers at RAY_ADDRESS={address}" if address else "Ray does not start"
        raise RayUnavailable(f"{where}: {str(error).splitlines()[0]}") from error
