"""All settings of all processes: one file (TOML), one tree, environment on top.

Order: environment (`CSR_ROUTER__PORT=7001`; also the usual `REDIS_URL`, `MLFLOW_TRACKING_URI`, `RAY_ADDRESS`) over
the TOML file named by `CSR_CONFIG` over the defaults below, which suit one machine. Kubernetes mounts
k8s/base/config/csr.toml, the same file that the tests load.
"""

import os
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

from platformdirs import user_cache_path, user_data_path
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

CONFIG_VARIABLE: Final = "CSR_CONFIG"


class InvalidSettings(Exception):
    """A setting is unknown or out of range; the text has one line per setting."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RedisSettings(_Section):
    """The store: log and state of every collection."""

    url: str = Field("redis://127.0.0.1:7379/0", description="Address of Redis (redis:// or rediss://).")
    timeout_seconds: float = Field(5.0, gt=0, description="Longest wait for one answer of Redis.")
    connections: int = Field(32, ge=1, description="Connections that one process opens at most.")


class RegistrySettings(_Section):
    """The MLflow tracking server and model registry."""

    uri: str = Field("", description="MLflow URI; empty means sqlite in the data folder.")
    model: str = Field("csr-adapter", description="Registered model that commands use when none is named.")
    experiment: str = Field("csr", description="Experiment that training runs are logged to.")


class TrainingSettings(_Section):
    """Ray Train."""

    workers: int = Field(2, ge=1, description="Workers of a training job; each takes a GPU when there are enough.")
    workers_min: int = Field(
        0, ge=0, description="Fewest workers to go on with when there is no room for all; 0 waits for all."
    )
    worker_cpus: float = Field(1.0, gt=0, description="CPUs reserved for each worker.")
    max_failures: int = Field(3, ge=0, description="Restarts of a job whose workers died before it fails.")


class EncoderSettings(_Section):
    """The encoder: Ray Serve deployment behind a gRPC port of its own, inside the cluster."""

    address: str = Field("127.0.0.1:7900", description="host:port where routers reach the encoder.")
    host: str = Field("127.0.0.1", description="Interface that Ray Serve's ports bind to.")
    port: int = Field(7900, ge=1, le=65535, description="gRPC port of Ray Serve.")
    http_port: int = Field(7901, ge=1, le=65535, description="HTTP port of Ray Serve (health).")
    replicas: int = Field(2, ge=1, description="Replicas of the deployment.")
    replica_cpus: float = Field(0.5, gt=0, description="CPUs reserved for each replica.")
    ongoing_requests: int = Field(16, ge=1, description="Requests a replica works on at a time.")
    queued_requests: int = Field(64, ge=1, description="Requests that wait per replica before new ones are refused.")
    models_kept: int = Field(4, ge=1, description="Adapters that a replica keeps in memory.")
    backbone: Path | None = Field(None, description="Folder of the sentence-transformers backbone; none: no texts.")
    max_tokens: int = Field(128, ge=8, le=8192, description="Longest text, in tokens.")
    timeout_seconds: float = Field(30.0, gt=0, description="Longest that Ray Serve works on one request.")


class IndexSettings(_Section):
    """One index server."""

    name: str = Field("index-0", description="Name of this server in the placement table.")
    host: str = Field("127.0.0.1", description="Interface that the gRPC port binds to.")
    port: int = Field(7101, ge=0, le=65535, description="gRPC port; 0 takes a free one.")
    metrics_port: int = Field(7201, ge=0, le=65535, description="Prometheus port; 0 takes a free one.")
    threads: int = Field(0, ge=0, description="Threads that search; 0 means one per core.")
    concurrent_requests: int = Field(64, ge=1, description="Requests accepted at a time; more are refused.")
    poll_min_ms: float = Field(2.0, gt=0, description="Shortest pause between two reads of the log.")
    poll_max_ms: float = Field(50.0, gt=0, description="Longest pause between two reads of the log.")
    drain_seconds: float = Field(5.0, ge=0, description="Grace for requests in flight at shutdown.")
    queue_seconds: float = Field(
        1.0, gt=0, description="Work that may wait, in seconds of searching; requests beyond it are refused."
    )
    memory_bytes: int = Field(
        0, ge=0, description="Resident memory behind which no more documents are taken; 0: 85 % of what there is."
    )
    snapshot_dir: Path | None = Field(
        None, description="Folder for snapshots, which shorten a start; none: no snapshots."
    )
    snapshot_seconds: float = Field(
        300.0, gt=0, description="Pause between two snapshots of a collection that changes."
    )


class RouterSettings(_Section):
    """The public API."""

    host: str = Field("127.0.0.1", description="Interface that the gRPC port binds to.")
    port: int = Field(7000, ge=0, le=65535, description="gRPC port; 0 takes a free one.")
    metrics_port: int = Field(7200, ge=0, le=65535, description="Prometheus port; 0 takes a free one.")
    concurrent_requests: int = Field(256, ge=1, description="Requests accepted at a time; more are refused.")
    default_deadline_seconds: float = Field(10.0, gt=0, description="Deadline of a request that brings none.")
    refresh_seconds: float = Field(1.0, gt=0, description="Age at which cached collection records are read again.")
    drain_seconds: float = Field(5.0, ge=0, description="Grace for requests in flight at shutdown.")
    reflection: bool = Field(True, description="Offer gRPC server reflection (router and index servers).")


class StackSettings(_Section):
    """The local stack of `csr up`; index server i listens on index.port + i and index.metrics_port + i."""

    index_servers: int = Field(2, ge=1, le=16, description="Index servers to start.")
    ray_port: int = Field(7800, ge=1, le=65535, description="Port of the local Ray cluster.")
    ray_metrics_port: int = Field(7801, ge=1, le=65535, description="Prometheus port of Ray (encoder, training).")
    ray_dashboard_port: int = Field(7802, ge=1, le=65535, description="Port of Ray's dashboard.")
    start_seconds: float = Field(120.0, gt=0, description="Longest wait for a process to become ready.")


class LogSettings(_Section):
    """Bounds of the log of a partition."""

    partition_bytes: int = Field(64 << 20, ge=1 << 20, description="Bytes of log kept per partition, approximately.")
    tombstone_seconds: float = Field(
        86_400.0, gt=0, description="How long deletions are remembered: the longest that a write may be repeated."
    )


class LoggingSettings(_Section):
    """Logs on standard output."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe level written.")
    format: Literal["json", "console"] = Field("json", description="One JSON object a line, or text for people.")


class Settings(BaseSettings):
    """Settings of one process; frozen."""

    model_config = SettingsConfigDict(
        env_prefix="CSR_",
        env_nested_delimiter="__",
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        nested_model_default_partial_update=True,
    )

    data_dir: Path = Field(
        default_factory=lambda: user_data_path("csr"), description="State of the local stack: Redis, MLflow, logs."
    )
    cache_dir: Path = Field(
        default_factory=lambda: user_cache_path("csr"), description="Downloads and embeddings; safe to delete."
    )
    redis: RedisSettings = RedisSettings()
    registry: RegistrySettings = RegistrySettings()
    training: TrainingSettings = TrainingSettings()
    encoder: EncoderSettings = EncoderSettings()
    index: IndexSettings = IndexSettings()
    router: RouterSettings = RouterSettings()
    stack: StackSettings = StackSettings()
    log: LogSettings = LogSettings()
    logging: LoggingSettings = LoggingSettings()

    @property
    def registry_uri(self) -> str:
        """MLflow URI in force; sqlite in the data folder when none is set."""
        return self.registry.uri or f"sqlite:///{self.data_dir / 'mlflow.db'}"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Explicit arguments, then environment, then the TOML file."""
        config = os.environ.get(CONFIG_VARIABLE)
        sources: tuple[PydanticBaseSettingsSource, ...] = (init_settings, env_settings)
        return (*sources, TomlConfigSettingsSource(settings_cls, Path(config))) if config else sources


def load_settings() -> Settings:
    """Return the settings of this process.

    Raises:
        InvalidSettings: a setting is unknown, of the wrong type or out of range, or the file is missing.
    """
    config = os.environ.get(CONFIG_VARIABLE)
    if config and not Path(config).is_file():
        raise InvalidSettings(f"{CONFIG_VARIABLE}={config}: no such file")
    try:
        settings = Settings()
    except (ValidationError, ValueError) as error:
        raise InvalidSettings(_explain(error)) from None
    usual = {"redis": ("url", os.environ.get("REDIS_URL")), "registry": ("uri", os.environ.get("MLFLOW_TRACKING_URI"))}
    for section, (field, value) in usual.items():
        if value:
            changed = getattr(settings, section).model_copy(update={field: value})
            settings = settings.model_copy(update={section: changed})
    _check_redis_url(settings.redis.url)
    return settings


def _check_redis_url(url: str) -> None:
    """Refuse what is no address; the text leaves it out, because it may hold a password."""
    try:
        known = urlsplit(url).scheme in ("redis", "rediss", "unix") and urlsplit(url).port != 0
    except ValueError:
        known = False
    if not known:
        raise InvalidSettings("redis.url: not an address of the form redis://[[user]:password@]host[:port][/database]")


def _explain(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    return "\n".join(
        f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']} (got {problem['input']!r})"
        for problem in error.errors()
    )
