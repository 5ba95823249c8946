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

import psutil
import pytest
import ray
from ray._private.authentication_test_utils import reset_auth_token_state

from csr_model import CSRAdapter, InvalidConfig, InvalidTrainingData, fit
from orchestration.data.split import EmbeddedSplit
from orchestration.ray_session import RayUnavailable
from orchestration.registry import CHALLENGER, Registry
from orchestration.train_job import TrainingFailed, TrainingProgress, automatic_config, train
from services.runtime.errors import InvalidRequest, RegistryUnavailable
from services.runtime.settings import RegistrySettings, Settings
from tests.orchestration.conftest import make_config
from tests.support.ray_cluster import RayCluster

WORKER = "ray::RayTrainWorker"

TRAINS_LONG = """
from orchestration.train_job import train
from services.runtime.settings import load_settings
from tests.orchestration.conftest import make_config, make_split

train(load_settings(), make_split(320, seed=0), make_config(epochs=1_000), "interrupted")
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


def test_two_workers_train_register_and_learn_what_one_would(
    cluster: RayCluster, settings: Settings, registry: Registry, split: EmbeddedSplit
) -> None:
    """There would be no model, or one whose quality depends on the number of workers."""
    seen: list[TrainingProgress] = []
    config = make_config()
    trained = train(settings, split, config, "two-workers", "some-backbone", seen.append)
    info = registry.resolve("two-workers", CHALLENGER)
    assert (info.version, info.fingerprint, info.run_id) == (trained.version, trained.fingerprint, trained.run_id)
    assert info.tags["csr.backbone"] == "some-backbone"
    run = registry.client.get_run(trained.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["hidden_dim"] == "48"
    assert run.data.params["seed"] == "0"
    assert run.data.tags["csr.data_digest"] == split.digest
    assert logged_epochs(registry, trained.run_id) == [0, 1, 2, 3]
    alone = fit(split.embeddings, config=config)
    assert trained.metrics["total"] == pytest.approx(alone.history[-1].total, rel=0.02)
    adapter = registry.load(info)
    adapter.verify_parity()
    assert adapter.manifest.metrics["total"] == trained.metrics["total"]
    assert adapter.usage.sum() > 0
    assert [progress.phase for progress in seen][:: len(seen) - 1] == ["starting", "registering"]
    assert not any((settings.data_dir / "train").iterdir()), "data and checkpoints of a finished job were left behind"


@pytest.mark.robustness
def test_a_killed_worker_costs_an_epoch_and_nothing_else(
    cluster: RayCluster, settings: Settings, registry: Registry, split: EmbeddedSplit
) -> None:
    """A lost machine would lose the training, or leave a model that differs from an undisturbed one."""
    config = make_config(epochs=12)
    disturb = once_after(3, lambda: kill_a_worker(cluster))
    trained = train(settings, split, config, "killed", on_progress=disturb)
    run = registry.client.get_run(trained.run_id)
    assert run.data.metrics["restarts"] == 1.0
    assert logged_epochs(registry, trained.run_id) == list(range(12))
    alone = fit(split.embeddings, config=config)
    assert trained.metrics["total"] == pytest.approx(alone.history[-1].total, rel=0.02)
    assert trained.metrics["dead_share"] == pytest.approx(alone.history[-1].dead_share, abs=0.05)


@pytest.mark.robustness
def test_workers_that_keep_dying_fail_the_run_with_one_line(
    cluster: RayCluster, settings: Settings, registry: Registry, split: EmbeddedSplit
) -> None:
    """People would see Ray's tracebacks, and MLflow a run that never ends."""
    strict = settings.model_copy(update={"training": settings.training.model_copy(update={"max_failures": 0})})
    disturb = once_after(1, lambda: kill_a_worker(cluster))
    with pytest.raises(TrainingFailed) as caught:
        train(strict, split, make_config(epochs=200), "failing", on_progress=disturb)
    assert "\n" not in str(caught.value)
    assert str(settings.data_dir) in str(caught.value)
    (run,) = registry.client.search_runs(["1"], "attributes.run_name LIKE 'failing-%'")
    assert run.info.status == "FAILED"
    assert registry.find("failing", CHALLENGER) is None


def test_a_registry_that_goes_away_does_not_cost_the_trained_adapter(
    cluster: RayCluster, settings: Settings, split: EmbeddedSplit, tmp_path: Path
) -> None:
    """Hours of training would be deleted because MLflow's disk was full for a minute."""
    own = settings.model_copy(
        update={"data_dir": tmp_path, "registry": RegistrySettings(uri=f"sqlite:///{tmp_path / 'mlflow.db'}")}
    )

    def break_the_store(progress: TrainingProgress) -> None:
        if progress.phase == "registering":
            (tmp_path / "mlflow-artifacts").write_text("in the way")

    with pytest.raises(RegistryUnavailable, match="the trained adapter is in") as caught:
        train(own, split, make_config(), "kept", on_progress=break_the_store)
    kept = re.search(r"adapter is in (\S+)\)", str(caught.value))
    assert kept is not None
    CSRAdapter.load(kept[1]).verify_parity()


def test_ctrl_c_ends_everything_that_training_started(settings: Settings, registry: Registry) -> None:
    """A cluster would stay behind on the user's machine, and MLflow would show a run that never ends."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "CSR_DATA_DIR": str(settings.data_dir),
        "CSR_CACHE_DIR": str(settings.cache_dir),
        "MLFLOW_TRACKING_URI": settings.registry_uri,
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


def test_unusable_data_or_settings_are_refused_before_anything_starts(settings: Settings, split: EmbeddedSplit) -> None:
    """People would wait for a cluster only to see every rank fail, again and again."""
    with pytest.raises(InvalidConfig, match="batch_size is 63; it must be a multiple of 2 workers"):
        train(settings, split, make_config(batch_size=63), "refused")
    with pytest.raises(InvalidTrainingData, match="labels are missing"):
        train(settings, replace(split, labels=None), make_config(gamma=1.0), "refused")
    for name in ("a/b", "../refused", "a:b", " ", "x" * 251):
        with pytest.raises(InvalidRequest, match="model: "):
            train(settings, split, make_config(), name)
    assert not ray.is_initialized()


def test_automatic_batches_divide_among_the_workers(split: EmbeddedSplit) -> None:
    """`csr train` on a small or odd number of rows would refuse its own defaults."""
    assert automatic_config(split, 2).batch_size == 256
    assert automatic_config(split, 3).batch_size == 255
    assert automatic_config(split, 3, batch_size=60, seed=7).batch_size == 60


def test_absent_cluster_is_one_line(settings: Settings, split: EmbeddedSplit, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stale RAY_ADDRESS would end in Ray's traceback."""
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    with pytest.raises(RayUnavailable, match=r"RAY_ADDRESS=127\.0\.0\.1:9") as caught:
        train(settings, split, make_config(), "nowhere")
    assert "\n" not in str(caught.value)
