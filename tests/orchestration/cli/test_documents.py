"""csr index and csr search against real processes."""

import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from orchestration.cli import app
from services.client import Client
from tests.support.deployment import MODEL, Deployment
from tests.support.encoder_server import clustered
from tests.support.stack import LocalStack, finish

Csr = Callable[..., Result]


@pytest.fixture
def csr(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> Csr:
    """Return a function that runs a command in this process against the session's deployment."""
    monkeypatch.setenv("CSR_ROUTER__PORT", str(deployment.router.port))

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, arguments, catch_exceptions=False)

    return run


@pytest.fixture
def client(deployment: Deployment) -> Iterator[Client]:
    """A client of the session's deployment."""
    with deployment.client() as client:
        yield client


def embeddings_file(folder: Path, rows: int) -> Path:
    """Write a user's file of embeddings."""
    path = folder / "rows.npy"
    np.save(path, clustered(rows, seed=51).astype(np.float32))
    return path


def test_a_load_is_complete_and_not_repeated(csr: Csr, client: Client, tmp_path: Path) -> None:
    """A bulk load would lose documents, or load everything again each time it is repeated."""
    csr("collection", "create", "loaded", "--model", MODEL)
    data = str(embeddings_file(tmp_path, 1300))
    loaded = csr("index", "loaded", "--data", data)
    assert loaded.exit_code == 0, loaded.output
    documents = client.count("loaded").count
    assert f"{documents:,} documents in loaded." in loaded.stdout
    token = client.count("loaded").token
    repeated = csr("index", "loaded", "--data", data)
    assert f"An earlier run stored all {documents:,} documents" in repeated.stdout
    assert client.count("loaded").token == token, "nothing was written"
    assert csr("index", "loaded", "--data", data, "--again").exit_code == 0
    assert client.count("loaded").token != token
    csr("collection", "delete", "loaded")


def test_ctrl_c_and_on(deployment: Deployment, client: Client, tmp_path: Path) -> None:
    """An interrupted load would begin anew, or leave a hole."""
    local = LocalStack(tmp_path / "data", f"sqlite:///{tmp_path / 'mlflow.db'}", {"RAY_ADDRESS": "127.0.0.1:9"})
    router = {"CSR_ROUTER__PORT": str(deployment.router.port)}
    data = str(embeddings_file(tmp_path, 60_000))
    client.create_collection("interrupted", MODEL)
    command = local.start("index", "interrupted", "--data", data, **router)
    while client.count("interrupted").count < 5_000:
        assert command.poll() is None, command.communicate()
        time.sleep(0.02)
    command.send_signal(signal.SIGINT)
    stopped = finish(command)
    assert stopped.returncode == 130, stopped.stderr
    assert "the same command goes on from here" in stopped.stderr
    before = client.count("interrupted").count
    went_on = local.csr("index", "interrupted", "--data", data, **router)
    assert went_on.returncode == 0, went_on.stderr
    assert "Went on after " in went_on.stdout
    after = client.count("interrupted").count
    assert before < after
    assert f"{after:,} documents in interrupted." in went_on.stdout
    client.delete_collection("interrupted")


def test_documents_that_cannot_be_stored_are_named(csr: Csr, client: Client, tmp_path: Path) -> None:
    """One bad document would end the load, or be lost without a word."""
    csr("collection", "create", "typed", "--model", MODEL, "--field", "label:int")
    loaded = csr("index", "typed", "--data", str(embeddings_file(tmp_path, 1300)))
    assert loaded.exit_code == 1
    assert "documents were not stored, such as" in loaded.stderr
    assert "label" in loaded.stderr
    assert len(loaded.stderr.splitlines()) < 20, "a summary, not a line per document"
    csr("collection", "delete", "typed")


def test_a_search_is_filtered(csr: Csr, client: Client) -> None:
    """Filters could be declared, but not used."""
    made = csr("collection", "create", "filtered", "--model", MODEL, "--field", "lang:keyword", "--field", "year:int")
    assert made.exit_code == 0, made.output
    assert "fields for filters: lang:keyword, year:int" in csr("collection", "describe", "filtered").stdout
    payloads = [{"lang": lang, "year": year} for lang in ("de", "en") for year in (2019, 2020, 2021)]
    ids = [f"{payload['lang']}{payload['year']}" for payload in payloads]
    token = client.upsert("filtered", ids, texts=["red fox"] * 6, payloads=payloads).token
    client.search("filtered", texts=["red fox"], token=token)

    def found(*conditions: str) -> set[str]:
        options = [option for condition in conditions for option in ("--where", condition)]
        done = csr("search", "filtered", "red fox", "--top-n", "10", "--json", *options)
        assert done.exit_code == 0, done.output
        return {hit["id"] for hit in json.loads(done.stdout)["hits"][0]}

    assert found() == set(ids)
    assert found("lang=de") == {"de2019", "de2020", "de2021"}
    assert found("lang=de", "year>=2020") == {"de2020", "de2021"}
    assert found("year>2019", "year<2021") == {"de2020", "en2020"}
    csr("collection", "delete", "filtered")
