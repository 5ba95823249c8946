"""Training on real Ray Train workers, one of which may be killed."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import ray
from ray._private.authentication_test_utils import reset_auth_token_state

from csr_model import CSRAdapter, InvalidConfig, InvalidTrainingData
from orchestration import owned_folders
from orchestration.data.split import EmbeddedSplit
from orchestration.ray_session import RayUnavailable
from orchestration.registry import CHALLENGER, Registry
from orchestration.train_files import TrainingProgress, training_rows
from orchestration.train_job import Validation, train
from orchestration.train_trainer import TrainingFailed, check_batches, fitting_batch
from orchestration.validation_set import held_out_rows
from services.runtime.errors import InvalidRequest, RegistryUnavailable
from services.runtime.settings import RegistrySettings, Settings, TrainingSettings
from tests.orchestration.conftest import make_config, make_split
from tests.orchestration.training import fingerprint_of_ranks, labelled_set, paired_set
from tests.support.ray_cluster import RayCluster

TINY = {"hidden_dim": 48, "levels": (2, 4, 8), "k_aux": 6, "batch_size": 64, "dead_after_rows": 200}
WORKER = "ray::RayTrainWorker"

TRAINS_LONG = """
from orchestration.train_job import train
from services.runtime.settings import load_settings
from tests.orchestration.conftest import make_config, make_split
from tests.orchestration.training import labelled_set

data = labelled_set(make_split(320, seed=0), make_split(20, seed=1))
train(load_settings(), data, make_config(epochs=1_000), model_name="interrupted")
"""


@pytest.fixture
def cluster(ray_cluster: RayCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[RayCluster]:
    """The session's Ray cluster, named by RAY_ADDRESS as for a user; no worker may outlive its job."""
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, ray_cluster.environment[name])
    reset_auth_token_state()  # Ray reads these when it is imported
    yield ray_cluster
    assert not ray.is_initialized(), "the job kept its Ray session open"
    deadline = time.monotonic() + 20
    while ray_cluster.processes(WORKER):
        assert time.monotonic() < deadline, "training workers outlived their job"
        time.sleep(0.2)


def kill_a_worker(cluster: RayCluster) -> None:
    """SIGKILL one training worker."""
    os.kill(cluster.processes(WORKER)[0].pid, signal.SIGKILL)


def once_after(epochs: int, act: Callable[[], None]) -> Callable[[TrainingProgress], None]:
    """Return a progress callback that acts once, when so many epochs are done."""
    acted = threading.Event()

    def watch(progress: TrainingProgress) -> None:
        if progress.epochs_done >= epochs and progress.phase == "training" and not acted.is_set():
            acted.set()
            act()

    return watch


def logged_epochs(registry: Registry, run_id: str) -> list[int]:
    """Return the steps under which the run's loss was logged."""
    return [metric.step for metric in registry.client.get_metric_history(run_id, "total")]


def test_the_recipe_trains_on_the_ranks_and_stops_when_patience_runs_out(
    cluster: RayCluster, settings: Settings, registry: Registry, held_out: EmbeddedSplit
) -> None:
    """There would be no model, one that nobody can explain, or one that is worse than an earlier epoch's."""
    seen: list[TrainingProgress] = []
    data = labelled_set(make_split(640, seed=2), held_out)
    chosen = {**TINY, "epochs": 40, "seed": 3}
    trained = train(
        settings, data, None, chosen, "recipe", "some-backbone", Validation(patience=2), on_progress=seen.append
    )
    info = registry.resolve("recipe", CHALLENGER)
    assert (info.version, info.fingerprint, info.run_id) == (trained.version, trained.fingerprint, trained.run_id)
    assert info.tags["csr.backbone"] == "some-backbone"
    run = registry.client.get_run(trained.run_id)
    assert run.info.status == "FINISHED"
    assert trained.choice is not None
    assert set(trained.choice.scores) == {"labels", "map of labels"}
    logged = run.data.metrics
    assert {logged[f"candidate.{name}"] for name in trained.choice.scores} == set(trained.choice.scores.values())
    assert run.data.tags["csr.recipe"] == trained.choice.name
    assert (run.data.params["hidden_dim"], run.data.params["seed"]) == ("48", "3")
    assert run.data.tags["csr.data_digest"] == data.digest
    assert run.data.tags["csr.validation_rows"] == "held out"
    history = registry.client.get_metric_history(trained.run_id, "validation_score")
    scores = [metric.value for metric in sorted(history, key=lambda metric: metric.step)]
    assert len(scores) < 40
    assert len(scores) - 1 - int(np.argmax(scores)) == 2
    adapter = registry.load(info)
    adapter.verify_parity()
    assert adapter.usage.sum() > 0
    # Of the best epoch, not of the last: its quality is the score that was seen then.
    per_level = [trained.quality[f"one_nn.k{k}"] for k in adapter.levels]
    assert np.mean(per_level) == pytest.approx(max(scores), abs=1e-6)
    assert trained.metrics == adapter.manifest.metrics
    assert (trained.metrics["epoch"], trained.metrics["validation_score"]) == (np.argmax(scores), max(scores))
    assert logged["validation.one_nn.k8"] == trained.quality["one_nn.k8"]
    phases = list(dict.fromkeys(progress.phase for progress in seen))
    assert phases[0] == "starting"
    assert phases[-3:] == ["training", "registering", "measuring"]
    assert not any((settings.data_dir / "train").iterdir()), "data and checkpoints of a finished job were left behind"


@pytest.mark.slow
@pytest.mark.robustness
def test_a_killed_worker_changes_nothing_in_two_stage_training_of_pairs(
    cluster: RayCluster, settings: Settings, registry: Registry, split: EmbeddedSplit, held_out: EmbeddedSplit
) -> None:
    """A lost machine would lose the training, or leave a model that differs from an undisturbed one."""
    data = paired_set(split, held_out)
    config = make_config(epochs=12, linear_map="pairs", gamma_pairs=0.5, map_examples=400)
    disturb = once_after(3, lambda: kill_a_worker(cluster))
    trained = train(settings, data, config, model_name="killed", validation=None, on_progress=disturb)
    assert trained.fingerprint == fingerprint_of_ranks(config, training_rows(data))
    run = registry.client.get_run(trained.run_id)
    assert run.data.metrics["restarts"] == 1.0
    assert logged_epochs(registry, trained.run_id) == list(range(12))
    assert registry.load(registry.resolve("killed", CHALLENGER)).fingerprint == trained.fingerprint


@pytest.mark.robustness
def test_neither_a_killed_worker_nor_a_registry_that_goes_away_costs_the_adapter(
    cluster: RayCluster, settings: Settings, split: EmbeddedSplit, held_out: EmbeddedSplit, tmp_path: Path
) -> None:
    """Hours of training would be deleted because MLflow's disk was full for a minute."""
    own = settings.model_copy(
        update={"data_dir": tmp_path, "registry": RegistrySettings(uri=f"sqlite:///{tmp_path / 'mlflow.db'}")}
    )
    kill = once_after(2, lambda: kill_a_worker(cluster))

    def disturb(progress: TrainingProgress) -> None:
        kill(progress)
        if progress.phase == "registering":
            (tmp_path / "mlflow-artifacts").write_text("in the way")

    data, config = labelled_set(split, held_out), make_config(epochs=8, gamma_labels=0.5)
    with pytest.raises(RegistryUnavailable, match="the trained adapter is in") as caught:
        train(own, data, config, model_name="kept", validation=Validation(every=3), on_progress=disturb)
    kept = re.search(r"adapter is in (\S+)\)", str(caught.value))
    assert kept is not None
    adapter = CSRAdapter.load(kept[1])
    adapter.verify_parity()
    learned = training_rows(data).without(held_out_rows(data))
    assert adapter.fingerprint == fingerprint_of_ranks(config, learned)


@pytest.mark.robustness
def test_fewer_workers_start_where_there_is_no_room_and_their_death_is_one_line(
    cluster: RayCluster, settings: Settings, registry: Registry, split: EmbeddedSplit, held_out: EmbeddedSplit
) -> None:
    """A job would wait for ever for a machine that does not come back; people would see Ray's tracebacks."""
    update = {"workers": 6, "workers_min": 1, "max_failures": 0}
    wide = settings.model_copy(update={"training": settings.training.model_copy(update=update)})
    seen: list[int] = []

    def disturb() -> None:
        seen.append(len(cluster.processes(WORKER)))
        kill_a_worker(cluster)

    config = make_config(epochs=200, batch_size=60)
    with pytest.raises(TrainingFailed) as caught:
        train(wide, labelled_set(split, held_out), config, model_name="failing", on_progress=once_after(1, disturb))
    assert seen[0] in range(1, 6)
    assert "\n" not in str(caught.value)
    assert str(settings.data_dir) in str(caught.value)
    (run,) = registry.client.search_runs(["1"], "attributes.run_name LIKE 'failing-%'")
    assert run.info.status == "FAILED"
    assert registry.find("failing", CHALLENGER) is None
    owned_folders.sweep(settings.data_dir / "train")
    assert list((settings.data_dir / "train").glob("failing-*")), "what the message points to was removed"


@pytest.mark.slow
@pytest.mark.robustness
def test_ctrl_c_ends_everything_that_training_started(settings: Settings, registry: Registry) -> None:
    """A cluster would stay behind on the user's machine, and MLflow would show a run that never ends."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "CSR_DATA_DIR": str(settings.data_dir),
        "CSR_CACHE_DIR": str(settings.cache_dir),
        "MLFLOW_TRACKING_URI": settings.registry_uri,
        "RAY_worker_niceness": "0",  # as in the other tests: at 15 the other test process leaves workers nothing
    }
    driver = subprocess.Popen(
        [sys.executable, "-c", TRAINS_LONG], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    family: list[psutil.Process] = []
    try:
        run = await_epoch(registry, "interrupted", driver)
        family = psutil.Process(driver.pid).children(recursive=True)
        (folder,) = set(re.findall(r"/\S*/csr-ray-\w+", " ".join(part for each in family for part in each.cmdline())))
        assert Path(folder).is_dir()
        driver.send_signal(signal.SIGINT)
        assert driver.wait(timeout=60) == -signal.SIGINT
        _, alive = psutil.wait_procs(family, timeout=20)
        assert not alive
    finally:
        for process in [driver, *family]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
    assert not Path(folder).exists()
    assert registry.client.get_run(run).info.status == "KILLED"
    assert not list((settings.data_dir / "train").glob("interrupted-*"))


def await_epoch(registry: Registry, name: str, driver: "subprocess.Popen[bytes]") -> str:
    """Return the run that a process trains in, once its second epoch is logged."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and driver.poll() is None:
        for run in registry.client.search_runs(["1"], f"attributes.run_name LIKE '{name}-%'"):
            if run.data.metrics.get("epoch", 0) >= 1:
                return str(run.info.run_id)
        time.sleep(0.2)
    raise AssertionError(f"no epoch was logged; the driver's exit code is {driver.poll()}")


def test_unusable_data_or_settings_are_refused_before_anything_starts(
    settings: Settings, split: EmbeddedSplit, held_out: EmbeddedSplit
) -> None:
    """People would wait for a cluster only to see every rank fail, again and again."""
    data = labelled_set(split, held_out)
    with pytest.raises(InvalidConfig, match="batch_size is 63; it must be a multiple of 2 for 2 workers"):
        train(settings, data, make_config(batch_size=63))
    with pytest.raises(InvalidConfig, match="batch_size is 60; it must be a multiple of 8 for 2 workers"):
        train(settings, paired_set(split, held_out), make_config(batch_size=60, gamma_pairs=1.0))
    with pytest.raises(InvalidTrainingData, match="learns labels but they are missing"):
        train(settings, paired_set(split, held_out), make_config(gamma_labels=1.0))
    with pytest.raises(InvalidTrainingData, match=r"all \d+ labels are equal"):
        train(settings, labelled_set(replace(split, labels=np.zeros(320, np.int64)), held_out))
    with pytest.raises(InvalidConfig, match="unknown settings: epoch;"):
        train(settings, data, chosen={"epoch": 3})
    with pytest.raises(InvalidRequest, match=r"validation\.patience: 0"):
        Validation(patience=0)
    for name in ("", "a/b", "../refused", "a:b", " ", "x" * 251):
        with pytest.raises(InvalidRequest, match="model: "):
            train(settings, data, make_config(), model_name=name)
    assert not ray.is_initialized()


def test_a_folder_that_cannot_be_written_is_one_line(
    settings: Settings, split: EmbeddedSplit, held_out: EmbeddedSplit, tmp_path: Path
) -> None:
    """A full or foreign disk would end in a traceback."""
    (tmp_path / "train").touch()
    with pytest.raises(InvalidRequest, match=r"data_dir: cannot write .*; set CSR_DATA_DIR"):
        train(settings.model_copy(update={"data_dir": tmp_path}), labelled_set(split, held_out), make_config())


def test_automatic_batches_divide_among_the_workers() -> None:
    """`csr train` on a small or odd number of rows would refuse its own defaults."""
    for rows in (5, 320, 10_000):
        for fewest, most in ((0, 2), (0, 3), (1, 4)):
            settings = TrainingSettings(workers=most, workers_min=fewest)
            batch = fitting_batch(16, rows, settings, {})
            check_batches(make_config(batch_size=batch), settings)
            assert batch <= max(256, 4)
    assert fitting_batch(16, 10_000, TrainingSettings(workers=2), {}) == 256


def test_absent_cluster_is_one_line(
    settings: Settings, split: EmbeddedSplit, held_out: EmbeddedSplit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stale RAY_ADDRESS would end in Ray's traceback."""
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    with pytest.raises(RayUnavailable, match=r"RAY_ADDRESS=127\.0\.0\.1:9") as caught:
        train(settings, labelled_set(split, held_out), make_config(), model_name="nowhere")
    assert "\n" not in str(caught.value)
