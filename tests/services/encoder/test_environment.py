"""What two local clusters need to live side by side."""

import socket
from pathlib import Path

import pytest

from services.encoder.environment import RAY_SERVE_ENVIRONMENT, local_serve_environment, ray_authentication


def test_ports_are_free_and_distinct(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second local stack would fail to start, or steal the first one's requests."""
    monkeypatch.setattr("services.encoder.environment._FOLDER_MAX", 1_000)
    variables = local_serve_environment(tmp_path)
    ports = [int(value) for name, value in variables.items() if name.endswith("_PORT")]
    assert len(ports) == len(set(ports)) == 8
    for port in ports:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", port))


def test_files_lie_in_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two users of a machine would share /tmp/haproxy-serve, which only the first can write to."""
    monkeypatch.setattr("services.encoder.environment._FOLDER_MAX", 1_000)
    variables = local_serve_environment(tmp_path)
    files = [value for name, value in variables.items() if name not in RAY_SERVE_ENVIRONMENT and "/" in value]
    assert len(files) == 6
    assert all(Path(file).is_relative_to(tmp_path) for file in files)


def test_a_long_folder_is_refused(tmp_path: Path) -> None:
    """HAProxy would fail much later with a message about a socket."""
    with pytest.raises(ValueError, match="at most 27"):
        local_serve_environment(tmp_path / ("x" * 40))


def test_a_cluster_keeps_its_token_to_itself(tmp_path: Path) -> None:
    """Other users of the machine could run code on the cluster, or its own drivers would be refused."""
    token = Path(ray_authentication(tmp_path)["RAY_AUTH_TOKEN_PATH"])
    assert token.stat().st_mode & 0o777 == 0o600
    first = token.read_text()
    assert len(first) == 64
    ray_authentication(tmp_path)
    assert token.read_text() == first
