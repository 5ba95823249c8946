"""What commands print for machines."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from csr_model import CSRConfig, fit
from orchestration.cli import app
from orchestration.cli.models import DEFAULT_DATA
from orchestration.data.catalog import SETS, load_newsgroups20_sample
from orchestration.registry import CHALLENGER, CHAMPION, Registry
from orchestration.tracking import training_run
from services.runtime.redis_binary import find_redis_server
from services.runtime.settings import RegistrySettings, Settings
from tests.support.champion import ROWS, Champion
from tests.support.deployment import MODEL, Deployment
from tests.support.redis_server import RedisServer

Csr = Callable[..., Result]


@pytest.fixture
def csr() -> Csr:
    """Return a function that runs a command in this process, which is quicker; errors it raises reach the test."""

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, arguments, catch_exceptions=False)

    return run


@pytest.fixture
def router(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> Deployment:
    """The session's deployment, as the one that the settings name."""
    monkeypatch.setenv("CSR_ROUTER__PORT", str(deployment.router.port))
    return deployment


def document(done: Result) -> Any:
    """Return the one JSON document on standard output."""
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_a_collection_from_creation_to_deletion(csr: Csr, router: Deployment) -> None:
    """Scripts could not manage collections."""
    (made,) = document(csr("collection", "create", "cli", "--model", MODEL, "--k-max", "4", "--json"))
    assert (made["name"], made["kind"], made["k_max"], made["versioning"]) == ("cli", "dense", 4, "assigned")
    assert made["generations"][0]["model"]["name"] == MODEL
    assert "cli" in [each["name"] for each in document(csr("collection", "list", "--json"))]
    with router.client() as client:
        token = client.upsert("cli", ["a", "b"], texts=["red fox", "blue whale"], payloads=[{"text": "x"}] * 2).token
        client.search("cli", texts=["red fox"], token=token)
    described = document(csr("collection", "describe", "cli", "--json"))
    assert described["documents"] == 2
    assert sum(part["documents"] for part in described["partitions"]) == 2
    found = document(csr("search", "cli", "red fox", "--top-n", "1", "--json"))
    assert [[hit["id"] for hit in hits] for hits in found["hits"]] == [["a"]]
    assert found["receipt"]["coverage"] == 1.0
    assert csr("collection", "delete", "cli").exit_code == 0
    assert "cli" not in [each["name"] for each in document(csr("collection", "list", "--json"))]


def test_tables_for_people_hold_the_same(csr: Csr, router: Deployment) -> None:
    """People would see less than machines do."""
    assert "people" in csr("collection", "create", "people", "--model", MODEL).stdout
    assert "people" in csr("collection", "list").stdout
    described = csr("collection", "describe", "people").stdout
    assert "index-0" in described
    assert "0 documents; the store fsyncs: always" in described
    assert "no hits" in csr("search", "people", "red fox").stdout
    assert csr("collection", "delete", "people").stdout.startswith("Deleted people")


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """An empty store, as the one that the settings name."""
    server = RedisServer(find_redis_server(), tmp_path / "redis")
    server.start()
    monkeypatch.setenv("REDIS_URL", server.url)
    yield
    server.kill()


def test_servers_are_set_and_listed(csr: Csr, store: None) -> None:
    """An operator could not tell a deployment which index servers it has."""
    assert document(csr("servers", "list", "--json")) is None
    table = document(csr("servers", "set", "index-0=10.0.0.1:7101", "index-1=10.0.0.2:7101", "--json"))
    assert table == {
        "term": 1,
        "replication": 1,
        "servers": [{"name": "index-0", "address": "10.0.0.1:7101"}, {"name": "index-1", "address": "10.0.0.2:7101"}],
    }
    assert document(csr("servers", "list", "--json")) == table
    assert "10.0.0.2:7101" in csr("servers", "list").stdout


@pytest.fixture
def registry(champion: Champion, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """The session's registry, as the one that the settings name; data sets are as small as its model's."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", champion.registry_uri)
    small = replace(SETS[DEFAULT_DATA], load=partial(load_newsgroups20_sample, rows=ROWS))
    monkeypatch.setitem(SETS, DEFAULT_DATA, small)
    return Registry.open(Settings(registry=RegistrySettings(uri=champion.registry_uri)))


def test_evaluation_names_every_level(csr: Csr, registry: Registry, champion: Champion) -> None:
    """Pipelines could not decide on measured quality."""
    evaluation = document(csr("evaluate", "--version", CHAMPION, "--json"))
    assert evaluation["fingerprint"] == champion.trained.fingerprint
    assert [level["k"] for level in evaluation["levels"]] == list(champion.adapter.levels)
    assert all(level["search"]["exactness"] == 1.0 for level in evaluation["levels"])


def test_a_failed_gate_is_3_and_moves_nothing(csr: Csr, registry: Registry, champion: Champion, tmp_path: Path) -> None:
    """A pipeline would take a refused version for a promoted one."""
    rows = champion.data.train.embeddings
    config = CSRConfig.automatic(rows.shape[1], len(rows), hidden_dim=96, epochs=1, levels=(2, 4))
    folder = tmp_path / "adapter"
    fit(rows, config=config).adapter.save(folder)
    name = champion.trained.name
    with training_run(registry, "csr", "poor", {}, {}) as run_id:
        poor = registry.register(name, run_id, folder)
    refused = csr("promote", "--version", str(poor.version), "--json")
    assert refused.exit_code == 3
    promotion = json.loads(refused.stdout)
    assert promotion["outcome"] == "refused"
    assert promotion["version"]["version"] == poor.version
    assert registry.resolve(name, CHAMPION).version == champion.trained.version
    assert registry.resolve(name, CHALLENGER).version == champion.trained.version
