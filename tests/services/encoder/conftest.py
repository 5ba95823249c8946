"""A real registry (sqlite) with real, tiny adapters."""

import asyncio
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient, MlflowException
from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_MAX_RETRIES, MLFLOW_HTTP_REQUEST_TIMEOUT

from csr_model import CSRAdapter, CSRConfig, fit
from services.encoder.registry import FINGERPRINT_TAG, ModelRegistry

INPUT_DIM = 16
HIDDEN_DIM = 64
LEVELS = (4, 8)


def trained(seed: int, input_dim: int = INPUT_DIM) -> CSRAdapter:
    """Return an adapter after one short epoch: what it learned does not matter here."""
    embeddings = np.random.default_rng(seed).standard_normal((256, input_dim)).astype(np.float32)
    config = CSRConfig.automatic(input_dim, 256, hidden_dim=HIDDEN_DIM, levels=LEVELS, epochs=1, seed=seed)
    return fit(embeddings, config=config).adapter


class RegistryFixture:
    """Registers adapters as training does: folder `adapter/` of a run, fingerprint as a tag of the version."""

    def __init__(self, folder: Path) -> None:
        self.uri = f"sqlite:///{folder / 'mlflow.db'}"
        self.client = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
        self._experiment = self.client.create_experiment("encoder", artifact_location=(folder / "artifacts").as_uri())

    def register(
        self,
        name: str,
        adapter: CSRAdapter,
        alter: Callable[[Path], None] = lambda _: None,
        tags: dict[str, str] | None = None,
        backbone: str | None = None,
    ) -> int:
        """Return the new version of an adapter whose folder was altered before it was logged."""
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "adapter"
            adapter.save(folder, backbone=backbone)
            alter(folder)
            run = self.client.create_run(self._experiment)
            self.client.log_artifacts(run.info.run_id, str(folder), "adapter")
        with suppress(MlflowException):  # of the name being there already
            self.client.create_registered_model(name)
        tags = {FINGERPRINT_TAG: adapter.fingerprint} if tags is None else tags
        source = f"runs:/{run.info.run_id}/adapter"
        return int(self.client.create_model_version(name, source, run_id=run.info.run_id, tags=tags).version)

    def artifact(self, name: str, version: int) -> Path:
        """Return where the files of a version lie."""
        run = self.client.get_run(self.client.get_model_version(name, str(version)).run_id)
        return Path(run.info.artifact_uri.removeprefix("file://")) / "adapter"


@pytest.fixture(scope="session")
def registered(tmp_path_factory: pytest.TempPathFactory) -> RegistryFixture:
    """A registry for the session; tests use model names of their own."""
    return RegistryFixture(tmp_path_factory.mktemp("registry"))


@pytest.fixture(scope="session")
def adapter() -> CSRAdapter:
    """An adapter that many tests may share, because encoding does not change it."""
    return trained(seed=1)


@pytest.fixture
def model_registry(registered: RegistryFixture) -> Iterator[ModelRegistry]:
    """The code under test on that registry."""
    with pytest.MonkeyPatch.context() as patch:  # ModelRegistry sets these for its process
        patch.setenv(MLFLOW_HTTP_REQUEST_MAX_RETRIES.name, "1")
        patch.setenv(MLFLOW_HTTP_REQUEST_TIMEOUT.name, "5")
        yield ModelRegistry(registered.uri)


async def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds; the test's timeout bounds it."""
    while not condition():
        await asyncio.sleep(0.005)
