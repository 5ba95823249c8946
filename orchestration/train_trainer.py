"""Ray Train, as a training job uses it: how many workers, what they survive, and how it ends."""

import math
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any, Final

import ray
from ray.train import CheckpointConfig, FailureConfig, Result, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from csr_model import CSRConfig, InvalidConfig
from orchestration.epoch_log import EpochLog
from orchestration.train_worker import RankTask, train_on_rank
from services.runtime.settings import TrainingSettings

_POLL_SECONDS: Final = 0.5
_ROOM_SECONDS: Final = 10.0
"""How often a job that lost workers looks whether there is room for them again."""
_PARTS: Final = 8
"""A rank's share of a batch divides into the sides of pairs and into neighbours."""


class TrainingFailed(Exception):
    """The workers could not finish; the text is one line that says why."""


def check_batches(config: CSRConfig, settings: TrainingSettings) -> None:
    """Raise InvalidConfig here for what every rank would raise after a slow start and several restarts."""
    for workers in _worker_counts(settings):
        unit = workers * config.batch_unit
        if config.batch_size % unit:
            raise InvalidConfig(
                f"batch_size is {config.batch_size}; it must be a multiple of {unit} for {workers} workers"
            )


def fitting_batch(input_dim: int, rows: int, settings: TrainingSettings, chosen: Mapping[str, Any]) -> int:
    """Return the automatic batch size, divisible among as many workers as there may be."""
    automatic = CSRConfig.automatic(input_dim, rows, **chosen).batch_size
    shares = math.lcm(*_worker_counts(settings))
    for unit in (_PARTS * shares, shares):
        if automatic >= unit:
            return automatic // unit * unit
    return shares


def make_trainer(settings: TrainingSettings, folder: Path, task: RankTask, epoch_log: EpochLog) -> TorchTrainer:
    """Return a trainer whose checkpoints lie in the job's folder."""
    # The controller looks at its workers every 2 s by default; shorter epochs would wait for it at each report.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.25")
    gpus = int(ray.cluster_resources().get("GPU", 0))
    counts = _worker_counts(settings)
    fewest, most = counts[0], counts[-1]
    if 0 < gpus < most:
        # One worker with a GPU outpaces several without; gloo and NCCL do not mix.
        fewest = most = 1
    return TorchTrainer(
        train_on_rank,
        train_loop_config=task,
        scaling_config=ScalingConfig(
            num_workers=most if fewest == most else (fewest, most),
            use_gpu=gpus > 0,
            resources_per_worker={"CPU": settings.worker_cpus} | ({"GPU": 1} if gpus else {}),
            elastic_resize_monitor_interval_s=_ROOM_SECONDS,
        ),
        run_config=RunConfig(
            name="ray",
            storage_path=str(folder),
            callbacks=[epoch_log],
            failure_config=FailureConfig(max_failures=settings.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
        ),
    )


def fit(trainer: TorchTrainer, watch: Callable[[], None]) -> Result:
    """Run `trainer.fit` in a thread and `watch` in this one, about twice a second.

    In the main thread Ray Train would replace the handler of Ctrl-C for good and turn it into a success. Here Ctrl-C
    reaches the caller, and ending the Ray session ends the workers.

    Raises:
        TrainingFailed: The workers failed for good.
    """
    outcome: Future[Result] = Future()

    def run() -> None:
        try:
            outcome.set_result(trainer.fit())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, name="ray-train-fit", daemon=True).start()
    while not wait([outcome], timeout=_POLL_SECONDS).done:
        watch()
    try:
        result = outcome.result()
    except Exception as error:
        raise TrainingFailed(_cause(error)) from error
    watch()
    return result


def _worker_counts(settings: TrainingSettings) -> range:
    fewest = min(settings.workers_min or settings.workers, settings.workers)
    return range(fewest, settings.workers + 1)


def _cause(error: Exception) -> str:
    """Return the last line of what the first failed rank raised: Ray wraps it in tracebacks."""
    failed = next(iter(getattr(error, "worker_failures", {}).values()), error)
    lines = [line.strip() for line in str(failed).splitlines() if line.strip()]
    return lines[-1] if lines else type(failed).__name__
