"""One MLflow run for each training job: where it comes from, how it went, how it ended."""

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from mlflow.entities import Param

from orchestration.mlflow_access import experiment_id, mlflow_errors
from orchestration.registry import Registry
from services.runtime.errors import RegistryUnavailable

REVISION_TAG: Final = "csr.git_revision"
DATA_TAG: Final = "csr.data_digest"


@contextmanager
def training_run(
    registry: Registry, experiment: str, name: str, params: Mapping[str, object], tags: Mapping[str, str]
) -> Iterator[str]:
    """Open a run, yield its id, and close it as FINISHED, KILLED (interrupted) or FAILED (anything else raised).

    Raises:
        RegistryUnavailable: MLflow does not answer.
    """
    client = registry.client
    everything = {**tags, REVISION_TAG: git_revision()}
    in_experiment = experiment_id(client, registry.uri, experiment)
    with mlflow_errors(registry.uri):
        known = {key: value for key, value in everything.items() if value}
        run_id = client.create_run(in_experiment, run_name=name, tags=known).info.run_id
        client.log_batch(run_id, params=[Param(key, str(value)) for key, value in params.items()])
    try:
        yield run_id
    except BaseException as error:
        with suppress(RegistryUnavailable), mlflow_errors(registry.uri):  # the first error is the one to see
            client.set_terminated(run_id, "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    with mlflow_errors(registry.uri):
        client.set_terminated(run_id, "FINISHED")


def last_epoch(registry: Registry, run_id: str) -> Mapping[str, float]:
    """Return the metrics of the newest epoch that a run has logged; empty before the first."""
    with mlflow_errors(registry.uri):
        return dict(registry.client.get_run(run_id).data.metrics)


def git_revision() -> str:
    """Return the commit of this code, with "-dirty" when files differ from it; empty outside a checkout."""
    here = Path(__file__)
    git = ["git", "-C", str(here.parent)]
    try:
        # Installed into an environment that lies in some other checkout, this file is not tracked there.
        subprocess.run([*git, "ls-files", "--error-unmatch", here.name], check=True, capture_output=True)
        described = subprocess.run(
            [*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            check=True,
            capture_output=True,
            text=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return described.stdout.strip()
