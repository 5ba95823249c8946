"""The way into MLflow: one client for tracking and registry, and its failures in this project's words."""

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.environment_variables import MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR, MLFLOW_HTTP_REQUEST_MAX_RETRIES
from mlflow.exceptions import MlflowException

from services.runtime.errors import RegistryUnavailable, UnknownVersion

_REACH_SECONDS: Final = 3.0
_RETRIES: Final = 3
"""MLflow's own default retries for minutes."""
_SQLITE: Final = "sqlite:///"


def open_client(uri: str) -> MlflowClient:
    """Return a client whose tracking store and registry both live at `uri` and answer.

    A sqlite file is created with its folder when it is missing, by one process at a time: MLflow's first
    migration takes seconds and does not stand a second process.

    Raises:
        RegistryUnavailable: Nothing answers at `uri`, or MLflow cannot use it.
    """
    if not MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR.is_set():
        MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR.set(False)
    if uri.startswith(_SQLITE):
        return _open_sqlite(uri)
    if urlsplit(uri).scheme in ("http", "https"):
        _check_server(uri)
        if not MLFLOW_HTTP_REQUEST_MAX_RETRIES.is_set():
            MLFLOW_HTTP_REQUEST_MAX_RETRIES.set(_RETRIES)
    with mlflow_errors(uri):
        client = MlflowClient(uri, registry_uri=uri)
        client.search_registered_models(max_results=1)
    return client


def sqlite_file(uri: str) -> Path:
    """Return the file behind a sqlite URI."""
    return Path(uri.removeprefix(_SQLITE))


def shown(uri: str) -> str:
    """Return a URI for messages: without user and password."""
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])) if "@" in parts.netloc else uri


def experiment_id(client: MlflowClient, uri: str, name: str) -> str:
    """Return the id of an experiment, creating it on first use.

    Artifacts lie beside a sqlite file; where a server runs, it decides.

    Raises:
        RegistryUnavailable: As `mlflow_errors`, or the experiment was deleted in MLflow.
    """
    location = None
    if uri.startswith(_SQLITE):
        location = (sqlite_file(uri).absolute().parent / "mlflow-artifacts").as_uri()
    with mlflow_errors(uri):
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            try:
                return str(client.create_experiment(name, artifact_location=location))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                experiment = client.get_experiment_by_name(name)
        if experiment.lifecycle_stage != "active":
            raise RegistryUnavailable(
                f"experiment {name!r} was deleted in MLflow; restore it or set CSR_REGISTRY__EXPERIMENT"
            )
        return str(experiment.experiment_id)


@contextmanager
def mlflow_errors(uri: str) -> Iterator[None]:
    """Turn what MLflow raises into one line that says what is wrong and where.

    Raises:
        UnknownVersion: MLflow has no such model, version, alias or run.
        RegistryUnavailable: Anything else that MLflow or its database or server refuses.
    """
    try:
        yield
    except MlflowException as error:
        text = str(error).splitlines()[0]
        if error.error_code == "RESOURCE_DOES_NOT_EXIST" or ("alias" in text and "not found" in text):
            raise UnknownVersion(f"{text} (registry {shown(uri)})") from error
        raise RegistryUnavailable(f"MLflow at {shown(uri)}: {text}") from error
    except ModuleNotFoundError as error:
        raise RegistryUnavailable(f"MLflow at {shown(uri)} needs the package {error.name}; install it") from error


def _open_sqlite(uri: str) -> MlflowClient:
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)  # it announces every new file
    file = sqlite_file(uri)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{file}.lock"), mlflow_errors(uri):
            client = MlflowClient(uri, registry_uri=uri)
            client.search_registered_models(max_results=1)
    except OSError as error:
        raise RegistryUnavailable(
            f"{uri}: {error.strerror or error}; set MLFLOW_TRACKING_URI or CSR_DATA_DIR"
        ) from error
    return client


def _check_server(uri: str) -> None:
    parts = urlsplit(uri)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        # A connection says at once that nobody listens; MLflow retries first.
        socket.create_connection((parts.hostname or "", port), timeout=_REACH_SECONDS).close()
    except OSError as error:
        raise RegistryUnavailable(
            f"no MLflow server answers at {shown(uri)} ({error.strerror or error}); start it or set MLFLOW_TRACKING_URI"
        ) from error
