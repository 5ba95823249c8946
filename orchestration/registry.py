"""Model versions in MLflow's registry: which exist, what aliases name them, and their verified files."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import mlflow.artifacts
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from csr_model import CSRAdapter
from csr_model.errors import ArtifactError
from orchestration.data.cache import build_once
from orchestration.mlflow_access import mlflow_errors, open_client, shown
from services.encoder.registry import FINGERPRINT_TAG
from services.runtime import limits
from services.runtime.errors import CorruptRecord, InvalidRequest, RegistryUnavailable, UnknownVersion, WrongState
from services.runtime.settings import Settings

BACKBONE_TAG: Final = "csr.backbone"
"""Name of the model that made the training embeddings; absent when unknown."""
METRIC_TAG_PREFIX: Final = "csr.metric."

CHALLENGER: Final = "challenger"
"""Alias of the newest trained version."""
CHAMPION: Final = "champion"
"""Alias of the version that should serve; moved by promotion only."""

_ARTIFACT_PATH: Final = "adapter"
_VERSION_MAX: Final = 2**31 - 1
"""Of MLflow's databases; they fail on larger numbers instead of not finding them."""
_FINGERPRINT: Final = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class ModelVersionInfo:
    """One registered version.

    Attributes:
        name: Registered model.
        version: Number, from 1.
        fingerprint: Of the adapter; checked against the files on download. Empty when the version has no such tag.
        run_id: Training run that made it.
        source: Where MLflow keeps the adapter folder.
        tags: All tags of the version.
        aliases: Aliases that name it now, sorted.
    """

    name: str
    version: int
    fingerprint: str
    run_id: str
    source: str
    tags: Mapping[str, str]
    aliases: tuple[str, ...]


class Registry:
    """Typed access to the registry; every method raises RegistryUnavailable when MLflow does not answer.

    Args:
        client: From `open_client`.
        uri: Of tracking store and registry.
        cache: Folder for downloaded adapters.
    """

    def __init__(self, client: MlflowClient, uri: str, cache: Path) -> None:
        self.client = client
        self.uri = uri
        self._cache = cache

    @classmethod
    def open(cls, settings: Settings) -> Self:
        """Connect as the settings say, creating the default sqlite file on first use."""
        uri = settings.registry_uri
        return cls(open_client(uri), uri, settings.cache_dir / "adapters")

    def register(self, name: str, run_id: str, folder: Path) -> ModelVersionInfo:
        """Log an adapter folder under a run and add it as the next version of `name`.

        Raises:
            ArtifactError: The folder holds no adapter, or one that encodes differently here.
        """
        adapter = CSRAdapter.load(folder)
        adapter.verify_parity()
        tags = {
            FINGERPRINT_TAG: adapter.fingerprint,
            "csr.input_dim": str(adapter.input_dim),
            "csr.hidden_dim": str(adapter.hidden_dim),
            "csr.k_max": str(adapter.k_max),
        }
        if adapter.manifest.backbone:
            tags[BACKBONE_TAG] = adapter.manifest.backbone
        tags |= {f"{METRIC_TAG_PREFIX}{key}": f"{value:.6g}" for key, value in adapter.manifest.metrics.items()}
        with mlflow_errors(self.uri):
            try:
                self.client.log_artifacts(run_id, str(folder), _ARTIFACT_PATH)
            except OSError as error:  # a full disk, or an artifact store that answers with an error
                raise RegistryUnavailable(f"cannot store the adapter under run {run_id}: {error}") from error
            try:
                self.client.create_registered_model(name)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            source = f"runs:/{run_id}/{_ARTIFACT_PATH}"
            return _info(self.client.create_model_version(name, source, run_id=run_id, tags=tags))

    def resolve(self, name: str, selector: int | str = CHAMPION) -> ModelVersionInfo:
        """Return the version with this number or alias, as it is now.

        Raises:
            UnknownVersion: No such model, version or alias; the message lists what there is.
            InvalidRequest: No model can have this name.
        """
        check_model_name(name)
        if str(selector).isdecimal() and int(selector) > _VERSION_MAX:
            raise UnknownVersion(self._what_there_is(name, selector))
        try:
            with mlflow_errors(self.uri):
                if str(selector).isdecimal():
                    found = self.client.get_model_version(name, str(selector))
                else:
                    number = self.client.get_model_version_by_alias(name, str(selector)).version
                    found = self.client.get_model_version(name, str(number))
        except UnknownVersion:
            raise UnknownVersion(self._what_there_is(name, selector)) from None
        return _info(found)

    def find(self, name: str, selector: int | str = CHAMPION) -> ModelVersionInfo | None:
        """Return what `resolve` returns, or None where that raises UnknownVersion."""
        try:
            return self.resolve(name, selector)
        except UnknownVersion:
            return None

    def versions(self, name: str | None = None) -> list[ModelVersionInfo]:
        """Return all versions of one model or of all, by name, then newest first."""
        with mlflow_errors(self.uri):
            names = [name] if name else [model.name for model in self._models()]
            # Aliases come only with single versions, not with searches.
            return [
                _info(self.client.get_model_version(found.name, str(found.version)))
                for each in sorted(names)
                for found in self._versions(each)
            ]

    def set_alias(self, name: str, alias: str, version: int) -> None:
        """Let an alias name a version; MLflow has no compare-and-set, so one promoter at a time."""
        with mlflow_errors(self.uri):
            self.client.set_registered_model_alias(name, alias, str(version))

    def tag(self, info: ModelVersionInfo, tags: Mapping[str, str]) -> None:
        """Add or replace tags of a version."""
        with mlflow_errors(self.uri):
            for key, value in tags.items():
                self.client.set_model_version_tag(info.name, str(info.version), key, value)

    def download(self, info: ModelVersionInfo) -> Path:
        """Return a local folder with the adapter of a version, verified against its registered fingerprint.

        Folders are kept by fingerprint in the cache and never change; two processes may download at once.

        Raises:
            WrongState: The version was registered without a fingerprint, so nobody can tell what its files should be.
            CorruptRecord: The files are gone, or are not the adapter that was registered.
        """
        return self._verified(info)[0]

    def load(self, info: ModelVersionInfo) -> CSRAdapter:
        """Return the adapter of a version, ready to encode; errors as `download`."""
        return self._verified(info)[1]

    def _verified(self, info: ModelVersionInfo) -> tuple[Path, CSRAdapter]:
        what = f"{info.name} version {info.version}"
        if not _FINGERPRINT.fullmatch(info.fingerprint):  # which names a folder below
            raise WrongState(
                f"{what}: its tag {FINGERPRINT_TAG} is missing or no fingerprint; register it by `csr train`"
            )
        cached = build_once(self._cache / info.fingerprint, lambda folder: self._fetch(info, folder))
        folder = cached / _ARTIFACT_PATH
        try:
            adapter = CSRAdapter.load(folder)
        except ArtifactError as error:
            raise CorruptRecord(f"{what}: {error}; delete {cached}") from error
        if adapter.fingerprint != info.fingerprint:
            raise CorruptRecord(
                f"{what}: the files have fingerprint {adapter.fingerprint}, the registry says {info.fingerprint}; "
                f"delete {cached} and register the version again"
            )
        return folder, adapter

    def _fetch(self, info: ModelVersionInfo, folder: Path) -> None:
        what = f"{info.name} version {info.version}"
        try:
            with mlflow_errors(self.uri):
                mlflow.artifacts.download_artifacts(
                    artifact_uri=info.source, dst_path=str(folder), tracking_uri=self.uri
                )
        except (FileNotFoundError, UnknownVersion) as error:
            raise CorruptRecord(f"{what}: its files are gone from {info.source}; train or register it again") from error
        except OSError as error:
            raise RegistryUnavailable(f"{what}: cannot fetch {info.source}: {error}") from error

    def _models(self) -> list[Any]:
        return _all_pages(self.client.search_registered_models)

    def _versions(self, name: str) -> list[Any]:
        found = _all_pages(self.client.search_model_versions, filter_string=f"name='{name}'")
        return sorted(found, key=lambda version: -int(version.version))

    def _what_there_is(self, name: str, selector: int | str) -> str:
        with mlflow_errors(self.uri):
            models = sorted(model.name for model in self._models())
            if name not in models:
                known = ", ".join(models) or "none"
                return f"no model {name!r} in {shown(self.uri)} (known: {known}); train one with `csr train`"
            versions = ", ".join(str(version.version) for version in self._versions(name)) or "none"
            aliases = ", ".join(sorted(self.client.get_registered_model(name).aliases)) or "none"
        return f"model {name!r} has no {selector!r} in {shown(self.uri)} (versions: {versions}; aliases: {aliases})"


def check_model_name(name: str) -> None:
    """Raise InvalidRequest here for what MLflow and the encoder would say of a name once all the work is done."""
    size = len(name.encode())
    if not name.strip() or set(name) & set("/:") or size > limits.MODEL_NAME_BYTES_MAX:
        raise InvalidRequest(f"model: {name!r}, 1..{limits.MODEL_NAME_BYTES_MAX} bytes without '/' and ':' are needed")


def _info(found: ModelVersion) -> ModelVersionInfo:
    return ModelVersionInfo(
        name=found.name,
        version=int(found.version),
        fingerprint=found.tags.get(FINGERPRINT_TAG, ""),
        run_id=found.run_id or "",
        source=found.source,
        tags=dict(found.tags),
        aliases=tuple(sorted(found.aliases)),
    )


def _all_pages(search: Callable[..., Any], **query: Any) -> list[Any]:
    found = search(**query)
    everything = list(found)
    while found.token:
        found = search(**query, page_token=found.token)
        everything.extend(found)
    return everything
