"""The MLflow model registry, as the encoder reads it. The one module of the encoder that imports MLflow."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import structlog
from mlflow import MlflowClient, MlflowException, artifacts
from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_MAX_RETRIES, MLFLOW_HTTP_REQUEST_TIMEOUT

from services.runtime.errors import CorruptRecord, RegistryUnavailable, UnknownVersion, WrongState

log = structlog.get_logger()

FINGERPRINT_TAG: Final = "csr.fingerprint"

_ALIAS_SECONDS: Final = 1.0
"""Age at which a resolved alias is looked up again."""
_UNKNOWN: Final = frozenset({"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"})
"""Error codes of MLflow for a name, version or alias that does not exist (or cannot, being malformed)."""

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class RegisteredVersion:
    """One version of one registered model."""

    name: str
    version: int
    source: str
    """URI of the artifact folder."""
    fingerprint: str


class ModelRegistry:
    """Reads versions, aliases and artifacts; blocking, safe to share between threads."""

    def __init__(self, uri: str) -> None:
        """Prepare to read the registry; connects at the first call.

        Args:
            uri: MLflow tracking URI, such as sqlite:///mlflow.db or http://mlflow:5000.
        """
        # MLflow's defaults retry for minutes; requests wait for these answers.
        if not MLFLOW_HTTP_REQUEST_MAX_RETRIES.is_set():
            MLFLOW_HTTP_REQUEST_MAX_RETRIES.set(1)
        if not MLFLOW_HTTP_REQUEST_TIMEOUT.is_set():
            MLFLOW_HTTP_REQUEST_TIMEOUT.set(5)
        self._uri = uri
        self._aliases: dict[tuple[str, str], tuple[float, int]] = {}

    def resolve(self, name: str, alias: str) -> int:
        """Return the version that an alias points to now, or pointed to within the last second.

        Raises:
            UnknownVersion: no such model or alias.
            RegistryUnavailable: the registry does not answer.
        """
        key = (name, alias)
        read_at, version = self._aliases.get(key, (-_ALIAS_SECONDS, 0))
        if time.monotonic() - read_at < _ALIAS_SECONDS:
            return version
        found = _ask(
            f"model {name!r} has no alias {alias!r}", lambda: self._client().get_model_version_by_alias(name, alias)
        )
        if len(self._aliases) >= 1_000:  # names come from callers
            self._aliases.clear()
        self._aliases[key] = (time.monotonic(), int(found.version))
        return int(found.version)

    def describe(self, name: str, version: int) -> RegisteredVersion:
        """Return what the registry knows of a version.

        Raises:
            UnknownVersion: no such model or version.
            WrongState: the version carries no fingerprint, so nobody can tell whether its artifact is the right one.
            RegistryUnavailable: the registry does not answer.
        """
        found = _ask(
            f"model {name!r} has no version {version}", lambda: self._client().get_model_version(name, str(version))
        )
        fingerprint = found.tags.get(FINGERPRINT_TAG)
        if not fingerprint:
            raise WrongState(f"model {name!r} version {version} has no tag {FINGERPRINT_TAG}")
        return RegisteredVersion(name, version, found.source, fingerprint)

    def download(self, registered: RegisteredVersion, folder: Path) -> Path:
        """Copy a version's artifact below an existing folder and return where it is.

        Raises:
            CorruptRecord: the artifact is gone.
            RegistryUnavailable: the registry or the artifact store does not answer.
        """
        what = f"the artifact of model {registered.name!r} version {registered.version}"
        try:
            copied = artifacts.download_artifacts(
                artifact_uri=registered.source, dst_path=str(folder), tracking_uri=self._uri
            )
        except FileNotFoundError:
            raise CorruptRecord(f"{what} is missing") from None
        except Exception as error:  # each artifact store raises its own kind
            if isinstance(error, MlflowException) and error.error_code in _UNKNOWN:
                raise CorruptRecord(f"{what} is missing") from error
            log.warning("artifact download failed", model=registered.name, version=registered.version, exc_info=True)
            raise RegistryUnavailable(f"{what} cannot be downloaded now") from error
        return Path(copied)

    def _client(self) -> MlflowClient:
        return MlflowClient(tracking_uri=self._uri, registry_uri=self._uri)


def _ask(unknown: str, question: Callable[[], Answer]) -> Answer:
    try:
        return question()
    except MlflowException as error:
        if error.error_code in _UNKNOWN:
            raise UnknownVersion(unknown) from error
        log.warning("model registry failed", exc_info=True)
        raise RegistryUnavailable("the model registry does not answer") from error
