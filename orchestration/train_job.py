"""Train an adapter with Ray Train and put it into the registry: data → run → version → alias `challenger`.

The driver (this module) checks the data, opens the MLflow run, starts the workers (`train_worker`), watches the
epochs that Ray Train's controller logs (`epoch_log`), and registers what they made.
"""

import dataclasses
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, Literal, TypeAlias
from uuid import uuid4

import numpy as np
import ray
from ray.train import CheckpointConfig, FailureConfig, Result, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from csr_model import CSRAdapter, CSRConfig, InvalidConfig, Training
from orchestration.data.split import EmbeddedSplit
from orchestration.epoch_log import EpochLog
from orchestration.ray_session import ray_session
from orchestration.registry import BACKBONE_TAG, CHALLENGER, ModelVersionInfo, Registry, check_model_name
from orchestration.tracking import DATA_TAG, last_epoch, training_run
from orchestration.train_worker import (
    ADAPTER_FOLDER,
    EMBEDDINGS_FILE,
    LABELS_FILE,
    RankTask,
    train_on_rank,
)
from services.runtime.errors import RegistryUnavailable
from services.runtime.settings import Settings, TrainingSettings

_POLL_SECONDS: Final = 0.5
_NAME_IN_JOB: Final = 48
"""Characters of the model's name in the job's, which is the name of a folder, too."""


class TrainingFailed(Exception):
    """The workers could not finish; the text is one line that says why."""


@dataclass(frozen=True)
class TrainingProgress:
    """Where a job stands, for people.

    Attributes:
        phase: `starting` until the first epoch is done, then `training`, then `registering`.
        epochs_done: Finished epochs.
        epochs: Epochs of the whole run.
        metrics: Of the newest epoch, csr_model's EpochReport by field; empty before the first.
    """

    phase: Literal["starting", "training", "registering"]
    epochs_done: int
    epochs: int
    metrics: Mapping[str, float]


OnProgress: TypeAlias = Callable[[TrainingProgress], None]


@dataclass(frozen=True)
class TrainedVersion:
    """What `train` registered; `metrics` are those of the last epoch."""

    run_id: str
    name: str
    version: int
    fingerprint: str
    metrics: Mapping[str, float]


def train(
    settings: Settings,
    data: EmbeddedSplit,
    config: CSRConfig | None = None,
    model_name: str | None = None,
    backbone: str | None = None,
    on_progress: OnProgress = lambda progress: None,
) -> TrainedVersion:
    """Train an adapter on all ranks, register it as the next version and give it the alias `challenger`.

    Workers that die are restarted from the last epoch's checkpoint, `settings.training.max_failures` times. Where
    ranks run on several nodes, `settings.data_dir` must be the same shared folder on each.

    Args:
        settings: Workers, folders, registry.
        data: Training rows; labels are used only when the configuration's gamma is above 0.
        config: By default `CSRConfig.automatic`, without labels.
        model_name: Registered model; by default the settings' one.
        backbone: Name of the model that made the embeddings, if texts are to be encoded later.
        on_progress: Called about twice a second.

    Raises:
        CSRModelError, InvalidRequest: Data, configuration or name cannot be used; found before anything is started.
        RegistryUnavailable, RayUnavailable: MLflow or Ray cannot be reached. Where MLflow goes away while the workers
            train, the adapter is kept and the message says where.
        TrainingFailed: The workers failed for good.
    """
    name = model_name or settings.registry.model
    check_model_name(name)
    config = config or automatic_config(data, settings.training.workers)
    _check(config, data, settings.training.workers)
    registry = Registry.open(settings)
    job = f"{name[:_NAME_IN_JOB]}-{uuid4().hex[:12]}"  # Ray Train takes a name that it knows for a run to resume
    params = dataclasses.asdict(config) | {"rows": len(data.embeddings), "workers": settings.training.workers}
    tags = {DATA_TAG: data.digest, BACKBONE_TAG: backbone or ""}
    with (
        _job_folder(settings.data_dir.absolute() / "train" / job) as folder,
        training_run(registry, settings.registry.experiment, job, params, tags) as run_id,
    ):
        task = _write_task(folder, config, data)
        on_progress(TrainingProgress("starting", 0, config.epochs, {}))
        with ray_session(settings.training):
            trainer = _trainer(settings.training, folder, task, EpochLog(registry.uri, run_id))
            result = _fit(trainer, lambda: _report(registry, run_id, config.epochs, on_progress))
        metrics = {key: float(value) for key, value in result.metrics.items()}
        on_progress(TrainingProgress("registering", config.epochs, config.epochs, metrics))
        assert result.checkpoint is not None, "every epoch reports a checkpoint"
        with result.checkpoint.as_directory() as checkpoint:
            version = _register(registry, run_id, name, Path(checkpoint) / ADAPTER_FOLDER, metrics, backbone)
    return TrainedVersion(run_id, name, version.version, version.fingerprint, metrics)


def automatic_config(data: EmbeddedSplit, workers: int, **chosen: object) -> CSRConfig:
    """Return the configuration for these rows, its batches divisible among the workers; `chosen` fields win."""
    rows, input_dim = data.embeddings.shape
    config = CSRConfig.automatic(input_dim, rows, labelled=bool(chosen.get("gamma")), **chosen)
    if "batch_size" in chosen:
        return config
    return dataclasses.replace(config, batch_size=max(1, config.batch_size // workers) * workers)


def _check(config: CSRConfig, data: EmbeddedSplit, workers: int) -> None:
    """Raise here what every rank would raise after a slow start and several restarts."""
    if config.batch_size % workers:
        raise InvalidConfig(f"batch_size is {config.batch_size}; it must be a multiple of {workers} workers")
    Training(config, data.embeddings, data.labels)


@contextmanager
def _job_folder(folder: Path) -> Iterator[Path]:
    """Hold data and checkpoints of one job; kept when its workers fail or their adapter finds no registry."""
    folder.mkdir(parents=True)
    keep = False
    try:
        yield folder
    except TrainingFailed as error:
        keep = True
        raise TrainingFailed(f"{error} (data and checkpoints are in {folder})") from error
    except RegistryUnavailable as error:
        trained = sorted(folder.rglob(ADAPTER_FOLDER))  # in the last checkpoint only
        if not trained:
            raise
        keep = True
        raise RegistryUnavailable(f"{error} (the trained adapter is in {trained[-1]})") from error
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


def _write_task(folder: Path, config: CSRConfig, data: EmbeddedSplit) -> RankTask:
    np.save(folder / EMBEDDINGS_FILE, np.ascontiguousarray(data.embeddings, dtype=np.float32))
    if config.gamma and data.labels is not None:
        np.save(folder / LABELS_FILE, data.labels)
    return {"config": config.to_json(), "data": str(folder)}


def _trainer(settings: TrainingSettings, folder: Path, task: RankTask, epoch_log: EpochLog) -> TorchTrainer:
    # The controller looks at its workers every 2 s by default; shorter epochs would wait for it at each report.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.25")
    gpus = int(ray.cluster_resources().get("GPU", 0))
    # One worker with a GPU outpaces several without; gloo and NCCL do not mix.
    workers = settings.workers if gpus == 0 or gpus >= settings.workers else 1
    return TorchTrainer(
        train_on_rank,
        train_loop_config=task,
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=gpus > 0,
            resources_per_worker={"CPU": settings.worker_cpus} | ({"GPU": 1} if gpus else {}),
        ),
        run_config=RunConfig(
            name="ray",
            storage_path=str(folder),
            callbacks=[epoch_log],
            failure_config=FailureConfig(max_failures=settings.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
        ),
    )


def _fit(trainer: TorchTrainer, watch: Callable[[], None]) -> Result:
    """Run `fit` in a thread and `watch` in this one.

    In the main thread Ray Train would replace the handler of Ctrl-C for good and turn it into a success. Here Ctrl-C
    reaches the caller, and ending the Ray session ends the workers.
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
    watch()
    try:
        return outcome.result()
    except Exception as error:
        raise TrainingFailed(_cause(error)) from error


def _cause(error: Exception) -> str:
    """Return the last line of what the first failed rank raised: Ray wraps it in tracebacks."""
    failed = next(iter(getattr(error, "worker_failures", {}).values()), error)
    lines = [line.strip() for line in str(failed).splitlines() if line.strip()]
    return lines[-1] if lines else type(failed).__name__


def _report(registry: Registry, run_id: str, epochs: int, on_progress: OnProgress) -> None:
    try:
        metrics = last_epoch(registry, run_id)
    except RegistryUnavailable:
        return  # training goes on without its curve; so does this
    done = int(metrics.get("epoch", -1)) + 1
    on_progress(TrainingProgress("training" if done else "starting", done, epochs, metrics))


def _register(
    registry: Registry, run_id: str, name: str, trained: Path, metrics: Mapping[str, float], backbone: str | None
) -> ModelVersionInfo:
    """Add the trained adapter, with its metrics, to the registry and let `challenger` name it."""
    with TemporaryDirectory() as scratch:
        folder = Path(scratch) / ADAPTER_FOLDER
        CSRAdapter.load(trained).save(folder, metrics=metrics, backbone=backbone)
        version = registry.register(name, run_id, folder)
    registry.set_alias(name, CHALLENGER, version.version)
    return version
