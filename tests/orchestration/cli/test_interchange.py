"""Versions that leave the registry as sentence-transformers folders, and come in from there."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from csr_model import CSRAdapter, ExportRefused, ImportRefused
from csr_model.interop import import_adapter
from orchestration.cli import app
from orchestration.registry import BACKBONE_TAG, CHALLENGER, ModelVersionInfo, Registry
from services.runtime.errors import InvalidRequest
from services.runtime.settings import Settings
from tests.support.random_adapter import make_adapter

Csr = Callable[..., Result]


@pytest.fixture
def csr(settings: Settings, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> Csr:
    """Return a function that runs a command in this process, on the session's registry."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registry.uri)
    monkeypatch.setenv("CSR_DATA_DIR", str(settings.data_dir))
    monkeypatch.setenv("CSR_CACHE_DIR", str(settings.cache_dir))

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, arguments, catch_exceptions=False)

    return run


def test_a_version_goes_out_and_comes_in(
    csr: Csr, registry: Registry, register: Callable[[str, CSRAdapter], ModelVersionInfo], tmp_path: Path
) -> None:
    """Who moves a model to sentence-transformers and back must find it registered, and serving could begin."""
    register("out", make_adapter(mapped=True))
    target = tmp_path / "module"
    done = csr("export", str(target), "--model", "out", "--version", "1", "--module-alone", "--json")
    assert done.exit_code == 0, done.output
    written = json.loads(done.stdout)
    assert (written["path"], written["backbone"], written["version"]) == (str(target), None, 1)
    back = csr("import", str(target), "--model", "back", "--backbone", "some-backbone", "--json")
    assert back.exit_code == 0, back.output
    printed, found = json.loads(back.stdout), registry.resolve("back", CHALLENGER)
    assert printed["aliases"] == [CHALLENGER]
    assert printed["fingerprint"] == found.fingerprint == import_adapter(target).fingerprint
    assert found.tags[BACKBONE_TAG] == "some-backbone"
    assert registry.load(found).manifest.training == {"imported_from": "sentence-transformers module"}
    assert registry.client.get_run(found.run_id).info.status == "FINISHED"
    assert "Registered back version 2" in csr("import", str(target), "--model", "back").stdout


def test_refusals_reach_the_caller_and_register_nothing(
    csr: Csr, registry: Registry, register: Callable[[str, CSRAdapter], ModelVersionInfo], tmp_path: Path
) -> None:
    """A refused model must not leave a version behind, nor a refused export a folder."""
    register("normalising", make_adapter(normalize=True))
    with pytest.raises(ExportRefused, match="normalize is on"):
        csr("export", str(tmp_path / "module"), "--model", "normalising", "--version", "1", "--module-alone")
    assert not (tmp_path / "module").exists()
    with pytest.raises(ImportRefused, match="does not exist"):
        csr("import", str(tmp_path / "module"), "--model", "nothing")
    with pytest.raises(InvalidRequest, match="without '/' and ':'"):
        csr("import", str(tmp_path / "module"), "--model", "a/b")
    assert registry.versions("nothing") == []


def test_wrong_usage_is_2(csr: Csr, register: Callable[[str, CSRAdapter], ModelVersionInfo], tmp_path: Path) -> None:
    """Options that contradict each other, or a backbone that only the user has, are the caller's to correct."""
    target = str(tmp_path / "model")
    both = csr("export", target, "--module-alone", "--backbone", str(tmp_path))
    assert both.exit_code == 2
    register("foreign", make_adapter())  # registered with a backbone that is not the packaged one
    unknown = csr("export", target, "--model", "foreign", "--version", "1")
    assert unknown.exit_code == 2
    assert "some-backbone" in unknown.output
