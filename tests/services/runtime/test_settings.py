import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.runtime.settings import CONFIG_VARIABLE, InvalidSettings, Settings, load_settings


@pytest.fixture(autouse=True)
def clean_environment() -> Iterator[pytest.MonkeyPatch]:
    """No setting of the surrounding environment reaches a test."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith("CSR_") or name in ("REDIS_URL", "MLFLOW_TRACKING_URI"):
                patch.delenv(name)
        yield patch


@pytest.fixture
def config(tmp_path: Path, clean_environment: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Make a TOML text the configuration file."""

    def write(text: str) -> None:
        path = tmp_path / "csr.toml"
        path.write_text(text)
        clean_environment.setenv(CONFIG_VARIABLE, str(path))

    return write


def test_defaults_suit_one_machine() -> None:
    """A newcomer would have to write settings first, or expose ports to the network."""
    settings = load_settings()
    assert settings.redis.url == "redis://127.0.0.1:7379/0"
    assert {settings.router.host, settings.index.host} == {"127.0.0.1"}
    assert settings.registry_uri == f"sqlite:///{settings.data_dir / 'mlflow.db'}"


def test_environment_over_file_over_defaults(
    config: Callable[[str], None], clean_environment: pytest.MonkeyPatch
) -> None:
    """An operator's override would lose against the file that it is meant to override."""
    config("[router]\nport = 1111\nconcurrent_requests = 5\n[index]\nname = 'from-file'\n")
    clean_environment.setenv("CSR_ROUTER__PORT", "2222")
    settings = load_settings()
    assert settings.router.port == 2222
    assert settings.router.concurrent_requests == 5
    assert settings.index.name == "from-file"
    assert settings.router.metrics_port == Settings().router.metrics_port


def test_the_usual_variables_are_honoured(clean_environment: pytest.MonkeyPatch) -> None:
    """The stack would ignore the Redis and MLflow that everything else on the machine uses."""
    clean_environment.setenv("REDIS_URL", "redis://store:6379/3")
    clean_environment.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    settings = load_settings()
    assert settings.redis.url == "redis://store:6379/3"
    assert settings.registry_uri == "http://mlflow:5000"
    assert settings.redis.connections == Settings().redis.connections


def test_an_empty_variable_is_not_set(clean_environment: pytest.MonkeyPatch) -> None:
    """`CSR_CACHE_DIR=` would mean the current folder, and downloads would land there."""
    clean_environment.setenv("CSR_CACHE_DIR", "")
    clean_environment.setenv("CSR_ROUTER__PORT", "")
    assert load_settings().cache_dir == Path("~/.cache/csr").expanduser()
    assert load_settings().router.port == 7000


@pytest.mark.parametrize(
    ("variable", "value", "setting"),
    [
        ("CSR_ROUTER__PORT", "99999", "router.port"),
        ("CSR_ROUTER__PORT", "http", "router.port"),
        ("CSR_ROUTER__TYPO", "1", "router.typo"),
        ("CSR_REDIS__TIMEOUT_SECONDS", "0", "redis.timeout_seconds"),
        ("CSR_LOGGING__LEVEL", "loud", "logging.level"),
        ("CSR_LOG__PARTITION_BYTES", "5", "log.partition_bytes"),
    ],
)
def test_a_wrong_variable_is_named(
    clean_environment: pytest.MonkeyPatch, variable: str, value: str, setting: str
) -> None:
    """A typo would be ignored, or an operator would not learn which setting is wrong."""
    clean_environment.setenv(variable, value)
    with pytest.raises(InvalidSettings, match=setting) as raised:
        load_settings()
    assert value in str(raised.value)


def test_every_wrong_setting_of_a_file_is_named_at_once(config: Callable[[str], None]) -> None:
    """An operator would fix one mistake per restart."""
    config("[router]\nport = -1\n[routers]\nport = 1\n")
    with pytest.raises(InvalidSettings) as raised:
        load_settings()
    assert "router.port" in str(raised.value)
    assert "routers" in str(raised.value)


@pytest.mark.parametrize("text", ["[router\n", "port == 1"])
def test_a_file_that_is_not_toml_is_refused(config: Callable[[str], None], text: str) -> None:
    """A broken file would be ignored, or end in a stack trace."""
    config(text)
    with pytest.raises(InvalidSettings):
        load_settings()


def test_a_missing_file_is_refused(clean_environment: pytest.MonkeyPatch) -> None:
    """A typo in CSR_CONFIG would start a process with defaults."""
    clean_environment.setenv(CONFIG_VARIABLE, "/no/such/file.toml")
    with pytest.raises(InvalidSettings, match=r"/no/such/file\.toml"):
        load_settings()


def test_settings_cannot_be_changed() -> None:
    """Two parts of a process would see different settings."""
    with pytest.raises(ValueError, match="frozen"):
        load_settings().router.port = 1  # type: ignore[misc]


def test_every_setting_is_described() -> None:
    """The table in the README would have empty cells."""
    for name, section in Settings.model_fields.items():
        nested = getattr(section.annotation, "model_fields", None)
        fields = {name: section} if nested is None else {f"{name}.{key}": field for key, field in nested.items()}
        for path, field in fields.items():
            assert field.description, path
