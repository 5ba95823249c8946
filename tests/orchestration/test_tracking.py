"""What is left of a training in MLflow, on a real registry."""

from pathlib import Path

import mlflow.artifacts
import pytest
from mlflow.entities import Metric

from orchestration.evaluate_answers import RankingQuality
from orchestration.registry import Registry
from orchestration.tracking import log_training_quality, training_run
from services.runtime.settings import Settings
from tests.orchestration.test_gates import evaluation, level


@pytest.mark.parametrize("labelled", [True, False])
def test_quality_and_pictures_are_found_in_the_run(
    registry: Registry, settings: Settings, adapters: list, tmp_path: Path, labelled: bool
) -> None:
    """People who compare runs would have only losses to look at."""
    quality = RankingQuality(one_nn=0.5 if labelled else None, recall=0.4)
    dense = RankingQuality(one_nn=0.8) if labelled else RankingQuality()
    levels = [level(k, one_nn=0.7 if labelled else None) for k in (8, 32)]
    measured = evaluation(*levels, dense=dense)
    adapter = adapters[0]
    with training_run(registry, settings.registry.experiment, "pictured", {}, {}) as run_id:
        epochs = [Metric("dead_share", share, 0, step) for step, share in enumerate((0.5, 0.2, 0.1))]
        registry.client.log_batch(run_id, metrics=epochs)
        usage = adapter.usage.numpy()
        log_training_quality(registry, run_id, measured, {8: quality}, usage, adapter.manifest.usage_rows)
    logged = registry.client.get_run(run_id).data.metrics
    for name, value in measured.as_metrics().items():
        assert logged[f"validation.{name}"] == pytest.approx(value)
    files = registry.client.list_artifacts(run_id, "pictures")
    assert {Path(file.path).name for file in files} == {"quality_by_k.png", "latent_usage.png", "dead_share.png"}
    for file in files:
        local = mlflow.artifacts.download_artifacts(
            run_id=run_id, artifact_path=file.path, dst_path=str(tmp_path), tracking_uri=registry.uri
        )
        assert Path(local).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("raised", "status"), [(KeyboardInterrupt, "KILLED"), (SystemExit, "KILLED"), (ValueError, "FAILED")]
)
def test_no_run_stays_open(registry: Registry, settings: Settings, raised: type[BaseException], status: str) -> None:
    """People would wait for a run that nobody computes, or look for the failure of one that was stopped."""
    with (
        pytest.raises(raised),
        training_run(registry, settings.registry.experiment, "stopped", {}, {}) as run_id,
    ):
        raise raised
    assert registry.client.get_run(run_id).info.status == status
