"""Environment variables that Ray and Ray Serve read on every node, before they start there. Imports no Ray."""

import os
import secrets
import socket
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Final

RAY_SERVE_ENVIRONMENT: Final[Mapping[str, str]] = {
    # HAProxy in front of replicas that serve gRPC themselves: a tenth of the cost of Serve's Python proxy.
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    # A replica that is told to stop waits this long for HAProxy to forget it, instead of 30 s; HAProxy sends requests
    # that a replica no longer takes to another one.
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""For every node of any cluster, local or not."""

_PORTS: Final = (
    "RAY_SERVE_HAPROXY_STATS_PORT",
    "RAY_SERVE_HAPROXY_METRICS_PORT",
    "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT",
    "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT",
)
_FILES: Final = {
    "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": "haproxy.cfg",
    "RAY_SERVE_HAPROXY_SOCKET_PATH": "admin.sock",
    "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": "metrics.sock",
    "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": "",
    "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": "server-state",
}
_FOLDER_MAX: Final = 27
"""A Unix socket's path has 107 bytes: the node's id takes 56, the socket's name and HAProxy's suffix up to 24."""
_REPLICA_PORTS: Final = 100
_REPLICA_PORTS_FIRST: Final = 20_000
_EPHEMERAL_PORTS_FIRST: Final = 32_768


def local_serve_environment(folder: Path) -> dict[str, str]:
    """Return the environment of a one-machine cluster that shares the machine with others.

    Every port and file that Ray Serve would otherwise place at a fixed spot is free now, or below `folder`. Processes
    that connect to the cluster need the variables of `ray_authentication`.

    Args:
        folder: Existing folder for HAProxy's sockets and the cluster's token, at most 27 bytes long.

    Raises:
        ValueError: the folder's path is too long.
        OSError: no free ports.
    """
    if len(bytes(folder)) > _FOLDER_MAX:
        raise ValueError(f"{folder}: {len(bytes(folder))} bytes, at most {_FOLDER_MAX} leave room for socket names")
    variables = {**RAY_SERVE_ENVIRONMENT, **ray_authentication(folder)}
    variables |= {name: str(port) for name, port in zip(_PORTS, _free_ports(len(_PORTS)), strict=True)}
    variables |= {name: str(folder / file) for name, file in _FILES.items()}
    first = _free_block(2 * _REPLICA_PORTS)
    for protocol in ("HTTP", "GRPC"):
        variables[f"RAY_SERVE_DIRECT_INGRESS_MIN_{protocol}_PORT"] = str(first)
        variables[f"RAY_SERVE_DIRECT_INGRESS_MAX_{protocol}_PORT"] = str(first + _REPLICA_PORTS - 1)
        first += _REPLICA_PORTS
    return variables


def ray_authentication(folder: Path) -> dict[str, str]:
    """Return the variables by which a cluster and its drivers know each other; makes the cluster's token if needed.

    Ray listens on every interface and runs what it is sent, and whether it asks for a token by default depends on
    its release and on the user's home folder; so a local cluster always has a token of its own.
    """
    token = folder / "ray-token"
    if not token.exists():
        descriptor = os.open(token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}


def _free_ports(count: int) -> list[int]:
    with ExitStack() as bound:
        sockets = [bound.enter_context(socket.socket()) for _ in range(count)]
        for free in sockets:
            free.bind(("", 0))
        return [free.getsockname()[1] for free in sockets]


def _free_block(size: int) -> int:
    """Return the first of `size` adjacent ports that nobody uses now.

    Chosen at random, because nothing else keeps two clusters apart: Ray means to refuse a port that another process
    listens on, but gRPC ignores the option as Ray sends it, and the kernel then gives each a share of the requests.
    """
    for _ in range(100):
        first = _REPLICA_PORTS_FIRST + secrets.randbelow(_EPHEMERAL_PORTS_FIRST - size - _REPLICA_PORTS_FIRST)
        if all(port_is_free(port) for port in range(first, first + size)):
            return first
    raise OSError(f"no {size} adjacent free ports between {_REPLICA_PORTS_FIRST} and {_EPHEMERAL_PORTS_FIRST}")


def port_is_free(port: int, host: str = "") -> bool:
    """Return whether nobody listens on a port, not even somebody who would share it."""
    with socket.socket() as probe:
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
