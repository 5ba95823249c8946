"""Train an adapter with Ray Train and put it into the registry: data → run → version → alias `challenger`.

The driver (this module) checks the data, opens the MLflow run, starts the workers (`train_worker`), watches them by
way of the job's folder (`train_files`), measures what they made and registers it. Ray Train's controller logs the
epochs (`epoch_log`).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Literal, TypeAlias
from uuid import uuid4

from csr_model import CSRAdapter, CSRConfig, Training
from csr_model.recipe import Choice, candidates
from orchestration import owned_folders
from orchestration.data.sets import EmbeddedSet
from orchestration.epoch_log import EpochLog
from orchestration.ray_session import ray_session
from orchestration.registry import BACKBONE_TAG, CHALLENGER, ModelVersionInfo, Registry, check_model_name
from orchestration.tracking import DATA_TAG, VALIDATION_TAG, log_config, training_run
from orchestration.train_files import TrainingProgress, TrainingRows, read_progress, training_rows, write_rows
from orchestration.train_quality import log_quality
from orchestration.train_trainer import TrainingFailed, check_batches, fit, fitting_batch, make_trainer
from orchestration.train_worker import ADAPTER_FOLDER, RankTask
from orchestration.validation_set import HeldOutRows, held_out_rows
from services.runtime.errors import InvalidRequest, RegistryUnavailable
from services.runtime.settings import Settings

_NAME_IN_JOB: Final = 48
"""Characters of the model's name in the job's, which is the name of a folder, too."""

Load: TypeAlias = Callable[[Path], EmbeddedSet]
"""(the job's folder, for large files) → the set; called when Ray runs."""


OnProgress: TypeAlias = Callable[[TrainingProgress], None]


@dataclass(frozen=True)
class Validation:
    """Hold a tenth of the rows or pairs out of training, and watch the quality on them.

    Attributes:
        every: Epochs between two scores; None measures at the end only.
        patience: Stop after so many epochs without a better score, and keep the best; None runs to the end.
    """

    every: int | None = None
    patience: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("every", self.every), ("patience", self.patience)):
            if value is not None and value < 1:
                raise InvalidRequest(f"validation.{name}: {value}, at least 1 epoch is needed")


_AT_THE_END: Final = Validation()


@dataclass(frozen=True)
class TrainedVersion:
    """What `train` registered.

    Attributes:
        metrics: Of the last epoch; with patience, of the best one, which was kept.
        quality: On validation rows, by the names of `Evaluation.as_metrics`; empty where too few rows are held out.
        choice: What the recipe chose; None where the configuration was given.
    """

    run_id: str
    name: str
    version: int
    fingerprint: str
    metrics: Mapping[str, float]
    quality: Mapping[str, float]
    choice: Choice | None


def train(
    settings: Settings,
    data: EmbeddedSet | Load,
    config: CSRConfig | None = None,
    chosen: Mapping[str, Any] | None = None,
    model_name: str | None = None,
    backbone: str | None = None,
    validation: Validation | None = _AT_THE_END,
    on_progress: OnProgress = lambda progress: None,
) -> TrainedVersion:
    """Train an adapter on all ranks, register it as the next version and give it the alias `challenger`.

    Workers that die are restarted from the last epoch's checkpoint, `settings.training.max_failures` times, and with
    `settings.training.workers_min` by fewer of them where there is no room. Where ranks run on several nodes,
    `settings.data_dir` must be the same shared folder on each, and so must that of memory-mapped embeddings, which are
    read where they are.

    Args:
        settings: Workers, folders, registry.
        data: Its `train` and `pairs` are learned from; or what loads it.
        config: By default the recipe chooses, on the ranks.
        chosen: Fields of CSRConfig that the recipe must keep to.
        model_name: Registered model; by default the settings' one.
        backbone: Name of the model that made the embeddings, if texts are to be encoded later.
        validation: What to do with the tenth that is held out; None learns from it, too, as sets do that are too
            small for it.
        on_progress: Called about twice a second.

    Raises:
        CSRModelError, InvalidRequest: Data, configuration or name cannot be used; found before any worker starts.
        RegistryUnavailable, RayUnavailable: MLflow or Ray cannot be reached. Where MLflow goes away while the workers
            train, the adapter is kept and the message says where.
        TrainingFailed: The workers failed for good.
    """
    name = settings.registry.model if model_name is None else model_name
    check_model_name(name)

    def plan(found: EmbeddedSet) -> _Plan:
        return _plan(settings, found, config, chosen or {}, validation)

    ready = plan(data) if isinstance(data, EmbeddedSet) else None
    registry = Registry.open(settings)
    jobs = settings.data_dir.absolute() / "train"
    owned_folders.sweep(jobs)
    on_progress(TrainingProgress("starting"))
    job = f"{name[:_NAME_IN_JOB]}-{uuid4().hex[:12]}"  # Ray Train takes a name that it knows for a run to resume
    with _job_folder(jobs / job) as folder, ray_session(settings.training):
        if ready is None:
            assert not isinstance(data, EmbeddedSet)
            ready = plan(data(folder))
        return _run(settings, registry, ready, folder, name, backbone or "", on_progress)


@dataclass(frozen=True)
class _Plan:
    """What to train on, checked.

    Attributes:
        held_out: Rows that judge; None where there are too few.
        validation: None where `held_out` are trained on, too.
    """

    data: EmbeddedSet
    rows: TrainingRows
    held_out: HeldOutRows | None
    config: CSRConfig | None
    chosen: Mapping[str, Any]
    validation: Validation | None


def _plan(
    settings: Settings,
    data: EmbeddedSet,
    config: CSRConfig | None,
    chosen: Mapping[str, Any],
    validation: Validation | None,
) -> _Plan:
    """Raise here what every rank would raise after a slow start and several restarts."""
    rows = training_rows(data)
    held_out: HeldOutRows | None = None
    try:
        held_out = held_out_rows(data)
    except InvalidRequest:
        if validation not in (None, _AT_THE_END):
            raise
        validation = None
    options = [] if config is None else [config]
    if config is None:
        count, input_dim = rows.embeddings.shape
        chosen = {"batch_size": fitting_batch(input_dim, count, settings.training, chosen), **chosen}
        found = candidates(input_dim, count, rows.labels is not None, rows.pairs is not None, **chosen)
        options = [*found.values()]
    for option in options:
        check_batches(option, settings.training)
    learned = rows if validation is None else rows.without(held_out)
    Training(options[0], learned.embeddings, learned.labels, learned.pairs)  # the others ask no more of the data
    return _Plan(data, rows, held_out, config, chosen, validation)


def _run(
    settings: Settings,
    registry: Registry,
    plan: _Plan,
    folder: Path,
    name: str,
    backbone: str,
    on_progress: OnProgress,
) -> TrainedVersion:
    """Train, register and measure within one MLflow run."""
    params = {"rows": len(plan.rows.embeddings), "workers": settings.training.workers}
    tags = {
        DATA_TAG: plan.data.digest,
        BACKBONE_TAG: backbone,
        VALIDATION_TAG: "trained on" if plan.validation is None else "held out",
    }
    with training_run(registry, settings.registry.experiment, folder.name, params, tags) as run_id:
        if plan.config is not None:
            log_config(registry, run_id, plan.config)
        watch = _Watch(registry, run_id, folder, on_progress)
        trainer = make_trainer(settings.training, folder, _task(folder, plan), EpochLog(registry.uri, run_id))
        result = fit(trainer, watch.look)
        watch.log_choice()
        watch.tell("registering")
        assert result.checkpoint is not None, "every epoch reports a checkpoint"
        with result.checkpoint.as_directory() as checkpoint:
            adapter = CSRAdapter.load(Path(checkpoint) / ADAPTER_FOLDER)
        metrics = adapter.manifest.metrics
        version = _register(registry, run_id, name, adapter, metrics, backbone)
        watch.tell("measuring")
        quality = {} if plan.held_out is None else log_quality(registry, run_id, adapter, plan.data, plan.held_out)
    return TrainedVersion(run_id, name, version.version, version.fingerprint, metrics, quality, watch.progress.choice)


def _task(folder: Path, plan: _Plan) -> RankTask:
    held_out = None if plan.validation is None else plan.held_out
    return {
        "folder": str(folder),
        "embeddings": str(write_rows(folder, plan.rows, held_out)),
        "config": None if plan.config is None else plan.config.to_json(),
        "chosen": plan.chosen,
        "validate_every": _score_every(plan.validation),
        "patience": None if plan.validation is None else plan.validation.patience,
    }


def _score_every(validation: Validation | None) -> int:
    if validation is None:
        return 0
    return validation.every or (0 if validation.patience is None else 1)


@contextmanager
def _job_folder(path: Path) -> Iterator[Path]:
    """Hold data and checkpoints of one job; kept when its workers fail or their adapter finds no registry."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir()
    except OSError as error:
        raise InvalidRequest(f"data_dir: cannot write {path}: {error.strerror}; set CSR_DATA_DIR") from error
    with owned_folders.owned_folder(path) as folder:
        try:
            yield folder
        except TrainingFailed as error:
            owned_folders.keep(folder)
            raise TrainingFailed(f"{error} (data and checkpoints are in {folder})") from error
        except RegistryUnavailable as error:
            trained = sorted(folder.rglob(ADAPTER_FOLDER))  # in the last checkpoint only
            if not trained:
                raise
            owned_folders.keep(folder)
            raise RegistryUnavailable(f"{error} (the trained adapter is in {trained[-1]})") from error


class _Watch:
    """Passes on what the ranks tell, and logs what the recipe chose as soon as it is known."""

    def __init__(self, registry: Registry, run_id: str, folder: Path, on_progress: OnProgress) -> None:
        self._registry = registry
        self._run_id = run_id
        self._folder = folder
        self._on_progress = on_progress
        self._logged = False
        self.progress = TrainingProgress("starting")

    def look(self) -> None:
        """Call about twice a second."""
        self.progress = read_progress(self._folder)
        with suppress(RegistryUnavailable):  # training goes on without it; `log_choice` comes back to it
            self.log_choice()
        self._on_progress(self.progress)

    def log_choice(self) -> None:
        """Log what the recipe chose, once."""
        if self.progress.choice is not None and not self._logged:
            log_config(self._registry, self._run_id, self.progress.choice.config, self.progress.choice)
            self._logged = True

    def tell(self, phase: Literal["registering", "measuring"]) -> None:
        """Say what comes after training."""
        self._on_progress(replace(self.progress, phase=phase))


def _register(
    registry: Registry, run_id: str, name: str, adapter: CSRAdapter, metrics: Mapping[str, float], backbone: str
) -> ModelVersionInfo:
    """Add the trained adapter, with its metrics, to the registry and let `challenger` name it."""
    with TemporaryDirectory() as scratch:
        folder = Path(scratch) / ADAPTER_FOLDER
        adapter.save(folder, metrics=metrics, backbone=backbone or None)
        version = registry.register(name, run_id, folder)
    registry.set_alias(name, CHALLENGER, version.version)
    return version
