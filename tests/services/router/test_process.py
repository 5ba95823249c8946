"""`python -m services.router` as an operator meets it."""

import json
import os
import socket
import subprocess
import sys

import pytest

from services.client import Client
from tests.services.router.corpus import create_codes_collection, random_codes
from tests.support.deployment import Deployment
from tests.support.service_process import ROOT


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the router until it ends by itself."""
    return subprocess.run(
        [sys.executable, "-m", "services.router", *arguments],
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'protos'}", **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_check_config_accepts_good_settings() -> None:
    """A deployment pipeline could not check settings before it rolls them out."""
    assert run("--check-config").returncode == 0


@pytest.mark.parametrize(
    ("environment", "text"),
    [
        ({"CSR_ROUTER__PORT": "99999"}, "router.port"),
        ({"CSR_ROUTER__PORTS": "7000"}, "router.ports"),
        ({"CSR_CONFIG": "/no/such/file.toml"}, "/no/such/file.toml"),
    ],
)
def test_check_config_names_the_wrong_setting(environment: dict[str, str], text: str) -> None:
    """An operator would search for a typo in the dark."""
    finished = run("--check-config", **environment)
    assert finished.returncode == 1
    assert text in finished.stderr
    assert "Traceback" not in finished.stderr


def test_a_taken_port_is_one_clear_line() -> None:
    """Two routers would share a port, or the second one would end in a stack trace."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        finished = run(CSR_ROUTER__PORT=port, CSR_ROUTER__METRICS_PORT="0")
    assert finished.returncode == 1
    assert port in finished.stderr
    assert len(finished.stderr.strip().splitlines()) == 1


def test_a_bad_redis_url_is_one_clear_line() -> None:
    """A typo in REDIS_URL would end in a stack trace."""
    finished = run(REDIS_URL="http://localhost:1", CSR_ROUTER__PORT="0", CSR_ROUTER__METRICS_PORT="0")
    assert finished.returncode == 1
    assert "redis.url" in finished.stderr
    assert "Traceback" not in finished.stderr


def test_metrics_tell_what_happened(deployment: Deployment, client: Client, name: str) -> None:
    """Dashboards would stay empty."""
    create_codes_collection(client, name)
    token = client.upsert(name, ["a", "b"], codes=random_codes(2, seed=1)).token
    client.search(name, codes=random_codes(1, seed=1), token=token, include_payloads=True)
    router = deployment.router
    assert router.metric("csr_router_documents_written_total", status="applied") >= 2
    assert router.metric("csr_requests_total", code="OK", method="Search") >= 1
    assert router.metric("csr_request_seconds_count", method="Upsert") >= 1
    for phase in ("resolve", "encode", "fan_out", "payloads"):
        assert router.metric("csr_router_search_phase_seconds_count", phase=phase) >= 1


def test_one_line_of_log_is_one_json_object(deployment: Deployment) -> None:
    """Log collectors would not understand the router."""
    for line in deployment.router.log.read_text().splitlines():
        assert json.loads(line)["process"] == "router"
