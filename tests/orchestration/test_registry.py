"""The registry against a real MLflow on sqlite."""

import shutil
import socket
import time
from pathlib import Path

import pytest

from csr_model import CSRAdapter, fit
from csr_model.errors import ArtifactCorrupt
from orchestration.data.split import EmbeddedSplit
from orchestration.mlflow_access import open_client
from orchestration.registry import CHALLENGER, CHAMPION, Registry
from orchestration.tracking import training_run
from services.runtime.errors import CorruptRecord, RegistryUnavailable, UnknownVersion, WrongState
from services.runtime.settings import Settings
from tests.orchestration.conftest import Register, make_config


def test_version_is_found_by_number_and_alias(
    registry: Registry, register: Register, adapters: list[CSRAdapter]
) -> None:
    """The encoder and the gates would not find the model, or trust it, without these facts."""
    registered = register("found", adapters[0])
    registry.set_alias("found", CHALLENGER, registered.version)
    by_alias = registry.resolve("found", CHALLENGER)
    assert by_alias == registry.resolve("found", 1) == registry.resolve("found", "1")
    assert (by_alias.version, by_alias.fingerprint) == (1, adapters[0].fingerprint)
    assert by_alias.aliases == (CHALLENGER,)
    assert by_alias.tags == {
        "csr.fingerprint": adapters[0].fingerprint,
        "csr.input_dim": "16",
        "csr.hidden_dim": "48",
        "csr.k_max": "8",
        "csr.backbone": "some-backbone",
        "csr.metric.total": "0.25",
    }


def test_loaded_adapter_encodes_as_the_registered_one(
    registry: Registry, register: Register, adapters: list[CSRAdapter], held_out: EmbeddedSplit
) -> None:
    """A model that changed on its way through the registry would give wrong codes."""
    loaded = registry.load(register("loaded", adapters[0]))
    ours, theirs = (adapter.encode(held_out.embeddings, 8) for adapter in (adapters[0], loaded))
    assert (ours.latents == theirs.latents).all()
    assert (ours.weights == theirs.weights).all()


def test_versions_come_newest_first_with_their_aliases(
    registry: Registry, register: Register, adapters: list[CSRAdapter]
) -> None:
    """People would pick the wrong version from a list without order or aliases."""
    for adapter in adapters:
        register("listed", adapter)
    registry.set_alias("listed", CHAMPION, 1)
    listed = registry.versions("listed")
    assert [(version.version, version.aliases) for version in listed] == [(2, ()), (1, (CHAMPION,))]
    assert {version.name for version in registry.versions()} >= {"listed"}


@pytest.mark.parametrize(
    ("name", "selector", "told"),
    [
        ("absent-model", CHAMPION, r"no model 'absent-model' .*known: .*csr train"),
        ("asked", 99, r"model 'asked' has no 99 .*versions: 1; aliases: challenger"),
        ("asked", 10**30, r"model 'asked' has no 10{30} .*versions: 1; aliases: challenger"),
        ("asked", "winner", r"model 'asked' has no 'winner' .*versions: 1; aliases: challenger"),
    ],
)
def test_unknown_version_says_what_there_is(
    registry: Registry, register: Register, adapters: list[CSRAdapter], name: str, selector: int | str, told: str
) -> None:
    """A typing error would leave people guessing."""
    if registry.find("asked", 1) is None:
        registry.set_alias("asked", CHALLENGER, register("asked", adapters[0]).version)
    with pytest.raises(UnknownVersion, match=told):
        registry.resolve(name, selector)
    assert registry.find(name, selector) is None


def test_silent_server_is_named_at_once() -> None:
    """`csr train` would hang for minutes when MLflow is down."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{free.getsockname()[1]}"
    started = time.monotonic()
    with pytest.raises(RegistryUnavailable, match=f"{uri}.*MLFLOW_TRACKING_URI"):
        open_client(uri)
    assert time.monotonic() - started < 10


def test_a_password_in_the_uri_is_not_repeated() -> None:
    """It would end in terminals, logs and bug reports."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(RegistryUnavailable, match=f"http://127.0.0.1:{port} ") as caught:
        open_client(f"http://user:secret@127.0.0.1:{port}")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("uri", ["nonsense://host", "sqlite:////dev/null/mlflow.db"])
def test_unusable_uri_is_one_line(uri: str) -> None:
    """A mistyped MLFLOW_TRACKING_URI would end in MLflow's traceback."""
    with pytest.raises(RegistryUnavailable) as caught:
        open_client(uri)
    assert uri in str(caught.value)
    assert "\n" not in str(caught.value)


def test_altered_files_are_refused(
    registry: Registry, register: Register, adapters: list[CSRAdapter], settings: Settings
) -> None:
    """A tampered or rotten adapter would serve."""
    info = register("altered", adapters[0])
    folder = registry.download(info)
    weights = folder / "adapter.safetensors"
    original = weights.read_bytes()
    try:
        weights.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
        with pytest.raises(CorruptRecord, match="altered version 1"):
            registry.download(info)
    finally:
        shutil.rmtree(folder.parent)
    assert registry.download(info) == folder


def test_another_adapter_under_the_same_version_is_refused(
    registry: Registry, register: Register, adapters: list[CSRAdapter], tmp_path: Path
) -> None:
    """Files swapped in the artifact store would serve under a trusted fingerprint."""
    info = register("swapped", adapters[1])
    registry.tag(info, {"csr.fingerprint": "0" * 32})
    with pytest.raises(CorruptRecord, match=adapters[1].fingerprint):
        registry.download(registry.resolve("swapped", 1))


@pytest.mark.parametrize("fingerprint", ["", "../elsewhere"])
def test_a_version_without_a_fingerprint_is_refused(
    registry: Registry, register: Register, adapters: list[CSRAdapter], fingerprint: str
) -> None:
    """A version registered by hand would be taken from, or written to, whatever folder its tag names."""
    info = register("untagged", adapters[0])
    registry.tag(info, {"csr.fingerprint": fingerprint})
    with pytest.raises(WrongState, match=r"untagged version \d: its tag csr\.fingerprint is missing or no fingerprint"):
        registry.download(registry.resolve("untagged", info.version))


def test_files_that_are_gone_are_named(
    registry: Registry, register: Register, split: EmbeddedSplit, settings: Settings
) -> None:
    """Whoever emptied the artifact store would see a traceback about some other folder."""
    adapter = fit(split.embeddings, config=make_config(seed=7, epochs=1)).adapter
    info = register("gone", adapter)
    shutil.rmtree(settings.data_dir / "mlflow-artifacts" / info.run_id)
    with pytest.raises(CorruptRecord, match=r"gone version 1: its files are gone"):
        registry.download(info)


def test_a_folder_without_an_adapter_is_not_registered(registry: Registry, settings: Settings, tmp_path: Path) -> None:
    """The registry would offer versions that nobody can load."""
    (tmp_path / "config.json").write_text("{}")
    with (
        pytest.raises(ArtifactCorrupt),
        training_run(registry, settings.registry.experiment, "empty", {}, {}) as run_id,
    ):
        registry.register("empty", run_id, tmp_path)
    assert registry.client.get_run(run_id).info.status == "FAILED"
    with pytest.raises(UnknownVersion):
        registry.resolve("empty", 1)
